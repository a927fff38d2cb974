"""The teacher on the machine of its run; its sharding is in test_distributed.py."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from tiny_runs import make_model, make_monitor, make_teacher

from hf_emktd.distillation import LiveTeacher
from hf_emktd.training.prepare import prepare_frozen


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_values": torch.randn(3, 32, 32, generator=generator),
        "pixel_values": torch.randn(3, 3, 16, 16, generator=generator),
    }


def test_on_one_device_its_signal_is_unchanged(batch):
    teacher = make_teacher()
    expected = teacher(**batch)
    prepared = prepare_frozen(Accelerator(cpu=True), teacher)
    signal = prepared(**batch)
    assert prepared is teacher and torch.equal(signal.logits, expected.logits)
    assert not prepared.model.training and not any(parameter.requires_grad for parameter in prepared.parameters())


def test_runs_in_the_precision_of_the_run(batch):
    """Tokens rounded to bfloat16 and given as float32: half the memory traffic, float32 Gram matrices."""
    expected = make_teacher()(**batch)
    signal = prepare_frozen(Accelerator(cpu=True, mixed_precision="bf16"), make_teacher())(**batch)
    assert signal.tokens["audio"].dtype == signal.entropies["audio"].dtype == torch.float32
    assert not torch.equal(signal.tokens["audio"], expected.tokens["audio"])
    torch.testing.assert_close(signal.tokens["audio"], expected.tokens["audio"], rtol=0.05, atol=0.05)


def test_without_a_monitor(batch):
    teacher = prepare_frozen(Accelerator(cpu=True), LiveTeacher(make_model(seed=1)))
    assert teacher(**batch).entropies == {}


def test_the_monitor_goes_to_the_device_of_the_run():
    teacher = make_model(seed=1)
    accelerator = Accelerator(cpu=True)
    accelerator.state.device = torch.device("meta")  # any other than the one it is on
    prepared = prepare_frozen(accelerator, LiveTeacher(teacher, make_monitor(teacher)))
    assert {parameter.device.type for parameter in prepared.parameters()} == {"meta"}
