from collections.abc import Callable

import pytest
import torch

from hf_emktd import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation

SIZES = {
    "vision_hidden_sizes": [8, 16, 20, 32],
    "vision_depths": [1, 1, 1, 1],
    "vision_mlp_ratios": [2, 2, 2, 2],
    "audio_channels": [4, 4, 8, 8, 8, 8],
    "audio_hidden_size": 16,
    "audio_embedding_size": 12,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "query_layers": 1,
    "num_queries": 6,
    "feed_forward_size": 24,
    "query_feed_forward_size": 20,
    "mask_mlp_size": 28,
    "num_points": 2,
    "norm_groups": 4,
    "image_size": 64,
    "num_frames": 3,
}


@pytest.fixture
def tiny_config() -> Callable[..., AvSegFormerConfig]:
    """Makes configurations for clips of three frames of 64 x 64."""
    return lambda **overrides: AvSegFormerConfig(**{**SIZES, **overrides})


@pytest.fixture
def tiny_model(tiny_config: Callable[..., AvSegFormerConfig]) -> AvSegFormerForAudioVisualSegmentation:
    torch.manual_seed(0)
    return AvSegFormerForAudioVisualSegmentation(tiny_config()).eval()


@pytest.fixture
def tiny_inputs() -> dict[str, torch.Tensor]:
    """Two clips that fit `tiny_config`."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(2, 3, 96, 64, generator=generator),
        "pixel_values": torch.randn(2, 3, 3, 64, 64, generator=generator),
    }


@pytest.fixture
def tiny_labels() -> torch.Tensor:
    """Two masks that sound, one empty, and three frames without a mask."""
    labels = torch.full((2, 3, 64, 64), -100)
    labels[0] = 0
    labels[0, :2, 10:30, 20:50] = 1
    return labels
