from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_emktd.metrics import count_macs, count_parameters, dummy_clip, measure_latency_ms
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification

WIDTH, PATCH = 8, 4


class OneLayer(nn.Module):
    """Audio frames and image patches projected to WIDTH, one attention over both, a head; every product countable."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(input_shapes={"input_values": (10, 6), "pixel_values": (3, 12, 12)})
        self.audio = nn.Linear(6, WIDTH, bias=False)
        self.visual = nn.Conv2d(3, WIDTH, kernel_size=PATCH, stride=PATCH, bias=False)
        self.head = nn.Linear(WIDTH, 5)
        self.register_buffer("scale", torch.ones(1))

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, input_values=None, pixel_values=None):
        tokens = []
        if input_values is not None:
            tokens.append(self.audio(input_values))
        if pixel_values is not None:
            tokens.append(self.visual(pixel_values).flatten(2).transpose(1, 2))
        tokens = torch.cat(tokens, dim=1)[:, None]
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0]
        return self.head(attended.mean(dim=1) * self.scale)


def expected_macs(audio_tokens: int, visual_tokens: int) -> int:
    projections = audio_tokens * 6 * WIDTH + visual_tokens * 3 * PATCH * PATCH * WIDTH
    attention = 2 * (audio_tokens + visual_tokens) ** 2 * WIDTH
    return projections + attention + WIDTH * 5


def test_count_parameters_counts_shared_and_frozen_once():
    model = OneLayer()
    model.tied = model.head
    model.audio.requires_grad_(False)
    assert count_parameters(model) == 6 * WIDTH + 3 * PATCH * PATCH * WIDTH + 5 * WIDTH + 5


def test_count_macs_includes_fused_attention():
    model = OneLayer().train()
    assert count_macs(model) == expected_macs(audio_tokens=10, visual_tokens=9)
    assert model.training
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_count_macs_of_one_modality():
    model = OneLayer()
    inputs = dummy_clip(model.config)
    assert count_macs(model, input_values=inputs["input_values"]) == expected_macs(10, 0)
    assert count_macs(model, pixel_values=inputs["pixel_values"]) == expected_macs(0, 9)


def test_dummy_clip_has_the_sizes_of_the_config():
    inputs = dummy_clip(CavMaeConfig(), "meta")
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {
        "input_values": (1, 1024, 128),
        "pixel_values": (1, 3, 224, 224),
    }


@pytest.mark.parametrize(
    ("width", "heads", "millions", "giga_macs"), [(768, 12, 164.739, 66.2), (192, 3, 10.66, 5.27)]
)
def test_cav_mae_has_the_published_size(width, heads, millions, giga_macs):
    config = CavMaeConfig(hidden_size=width, num_attention_heads=heads, num_labels=309)
    with torch.device("meta"):
        model = CavMaeForAudioVisualClassification(config)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert count_macs(model) / 1e9 == pytest.approx(giga_macs, rel=2e-3)


def test_latency_is_positive_and_restores_the_mode():
    model = OneLayer().train()
    assert measure_latency_ms(model, repetitions=3, warmup=1) > 0
    assert model.training


def test_latency_without_repetitions_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        measure_latency_ms(OneLayer(), repetitions=0)
