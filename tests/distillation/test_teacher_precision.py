"""A teacher in other numbers than it was trained in."""

from __future__ import annotations

import pytest
import torch

from hf_emktd.distillation import LiveTeacher
from hf_emktd.distillation.teacher_precision import TEACHER_DTYPES, in_dtype, is_int8
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "modality_specific_depth": 1, "patch_size": 8}
    inputs = {"audio_length": 32, "num_mel_bins": 32, "image_size": 16, "num_labels": 5}
    return CavMaeForAudioVisualClassification(CavMaeConfig(**sizes, **inputs))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_values": torch.randn(6, 32, 32, generator=generator),
        "pixel_values": torch.randn(6, 3, 16, 16, generator=generator),
    }


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [("auto", 0, 0), ("float32", 0, 0), ("bfloat16", 1e-4, 0.03), ("float16", 1e-5, 0.004), ("int8", 1e-4, 0.1)],
)
def test_tokens_change_as_much_as_rounding_changes_them(model, batch, name, smallest, largest):
    expected = LiveTeacher(model)(**batch)
    signal = LiveTeacher(model, dtype=TEACHER_DTYPES[name])(**batch)
    for branch, tokens in expected.tokens.items():
        error = (signal.tokens[branch].float() - tokens).norm() / tokens.norm()
        assert smallest <= error <= largest, branch


def test_int8_is_a_copy_of_the_linear_layers_alone(model, batch):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    teacher = LiveTeacher(model, dtype=torch.qint8)
    assert is_int8(teacher.model) and not is_int8(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert teacher(**batch).logits.dtype == torch.float32
    linear = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    quantised = torch.ao.nn.quantized.dynamic.Linear
    assert sum(isinstance(module, quantised) for module in teacher.model.modules()) == linear > 0


def test_int8_on_an_accelerator_is_refused(model):
    with pytest.raises(ValueError, match="an int8 teacher runs on the CPU"):
        in_dtype(model.to("meta"), torch.qint8)
