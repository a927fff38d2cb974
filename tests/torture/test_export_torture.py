"""Every visual encoder that can be joined with AST, exported by the script in every format and for each modality."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import set_seed

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_emktd import AudioVisualEncoderForAudioVisualClassification, CavMaeProcessor
from tiny_encoders import VISION_CONFIGS, make_config

pytest.importorskip("onnx"), pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
pytestmark = pytest.mark.torture

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export.py"
FORMATS = ["onnx", "onnx-int8", "torch-export"]


@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_the_script_writes_and_checks_it(vision, tmp_path, monkeypatch):
    modalities = ["both", "audio", "visual"] if vision == "dinov2" else ["both"]
    set_seed(0)
    model = AudioVisualEncoderForAudioVisualClassification(make_config(vision))
    model.save_pretrained(tmp_path / "model")
    CavMaeProcessor.from_config(model.config).save_pretrained(tmp_path / "model")
    options = ["--format", *FORMATS, "--modalities", *modalities, "--repetitions", "1"]
    options += ["--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "export")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = json.loads((tmp_path / "export" / "export.json").read_text())
    differences = {(row["format"], row["modality"]): row["largest_difference"] for row in rows}
    for modality in modalities:
        assert differences["onnx", modality] <= 1e-4 and differences["torch-export", modality] <= 1e-4
        assert 0 < differences["onnx-int8", modality] < 0.1
