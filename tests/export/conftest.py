from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_emktd import CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.export import ExportedFile, export_model, write_preprocessing

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_classifier import make_classifier

MODALITIES = ["both", "audio", "visual"]


@pytest.fixture(scope="session")
def model() -> CavMaeForAudioVisualClassification:
    """Inputs as large as Kaldi's filters of 16 kHz need them; wide enough that int8 has something to round."""
    return make_classifier(spread=5, hidden_size=64, audio_length=64, num_mel_bins=64)


@pytest.fixture(scope="session")
def processor(model) -> CavMaeProcessor:
    return CavMaeProcessor.from_config(model.config)


@pytest.fixture(scope="session")
def exported(model, processor, tmp_path_factory) -> tuple[Path, list[ExportedFile]]:
    """Folder and files: ONNX of all three, int8 and torch.export of both."""
    folder = tmp_path_factory.mktemp("export")
    files = export_model(model, folder, ["onnx"], MODALITIES)
    files += export_model(model, folder, ["onnx-int8", "torch-export"])
    write_preprocessing(model.config, processor, folder)
    return folder, files
