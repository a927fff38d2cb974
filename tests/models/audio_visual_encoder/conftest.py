from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from hf_emktd import AudioVisualEncoderConfig, AudioVisualEncoderForAudioVisualClassification
from tiny_encoders import make_config


@pytest.fixture
def tiny_config() -> AudioVisualEncoderConfig:
    """AST with 3 x 7 tokens and DINOv2 with 2 x 2, five classes."""
    return make_config()


@pytest.fixture
def tiny_model(tiny_config) -> AudioVisualEncoderForAudioVisualClassification:
    torch.manual_seed(0)
    return AudioVisualEncoderForAudioVisualClassification(tiny_config).eval()


@pytest.fixture
def tiny_inputs() -> dict[str, torch.Tensor]:
    """Three clips that fit `tiny_config`."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(3, 32, 16, generator=generator),
        "pixel_values": torch.randn(3, 3, 16, 16, generator=generator),
    }
