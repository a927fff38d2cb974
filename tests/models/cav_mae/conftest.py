from collections.abc import Callable

import pytest
import torch

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification


@pytest.fixture
def tiny_config() -> Callable[..., CavMaeConfig]:
    """Makes configurations of 2 x 4 audio tokens and 2 x 2 visual ones, five classes."""

    def make(**overrides: object) -> CavMaeConfig:
        sizes = {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "modality_specific_depth": 2,
            "patch_size": 8,
            "audio_length": 32,
            "num_mel_bins": 16,
            "image_size": 16,
            "num_labels": 5,
        }
        return CavMaeConfig(**{**sizes, **overrides})

    return make


@pytest.fixture
def tiny_model(tiny_config: Callable[..., CavMaeConfig]) -> CavMaeForAudioVisualClassification:
    torch.manual_seed(0)
    return CavMaeForAudioVisualClassification(tiny_config()).eval()


@pytest.fixture
def tiny_inputs() -> dict[str, torch.Tensor]:
    """Three clips that fit `tiny_config`."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(3, 32, 16, generator=generator),
        "pixel_values": torch.randn(3, 3, 16, 16, generator=generator),
    }
