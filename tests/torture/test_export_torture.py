"""Masks, and every visual encoder that can be joined with AST, exported by the script in every format and for each
modality; classifiers in ExecuTorch's where that is installed."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel, ProcessorMixin, set_seed

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_emktd import AudioVisualEncoderForAudioVisualClassification, AvSegFormerProcessor, CavMaeProcessor
from tiny_encoders import VISION_CONFIGS, make_config
from tiny_segmenter import make_segmenter

pytest.importorskip("onnx"), pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
pytestmark = pytest.mark.torture

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export.py"
EXACT = ["onnx", "torch-export"]
EXECUTORCH = ["executorch"] if find_spec("executorch") else []


@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_the_script_writes_and_checks_it(vision, tmp_path, monkeypatch):
    modalities = ["both", "audio", "visual"] if vision == "dinov2" else ["both"]
    set_seed(0)
    model = AudioVisualEncoderForAudioVisualClassification(make_config(vision))
    check_export(
        model, CavMaeProcessor.from_config(model.config), [*EXACT, *EXECUTORCH], modalities, tmp_path, monkeypatch
    )


def test_masks(tmp_path, monkeypatch):
    model = make_segmenter()
    check_export(model, AvSegFormerProcessor.from_config(model.config), EXACT, ["both"], tmp_path, monkeypatch)


def check_export(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    exact: Sequence[str],
    modalities: Sequence[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    options = ["--format", *exact, "onnx-int8", "--modalities", *modalities, "--repetitions", "1"]
    options += ["--model", str(folder / "model"), "--output_dir", str(folder / "export")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = json.loads((folder / "export" / "export.json").read_text())
    differences = {(row["format"], row["modality"]): row["largest_difference"] for row in rows}
    for modality in modalities:
        assert all(differences[name, modality] <= 1e-4 for name in exact)
        assert 0 < differences["onnx-int8", modality] < 0.1
