import math

import pytest
import torch

from hf_emktd.distillation import LogitDistillation, TeacherSignal


def signal_of(logits):
    return TeacherSignal(logits=logits, tokens={}, grids={})


def test_loss_equals_hand_value(make_output):
    """Teacher (0.75, 0.25) at T = 2, student uniform: T^2 KL = 4 (0.75 ln 1.5 + 0.25 ln 0.5)."""
    teacher = torch.tensor([[2 * math.log(3), 0.0], [1.0, 1.0]])
    parts = LogitDistillation(temperature=2.0)(make_output({}, torch.zeros(2, 2)), signal_of(teacher))
    assert list(parts) == ["kd"]
    assert parts["kd"].item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, rel=1e-5)


def test_weight_multiplies(make_output):
    logits, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    one = LogitDistillation()(make_output({}, logits), signal_of(teacher))["kd"]
    assert LogitDistillation(weight=3.0)(make_output({}, logits), signal_of(teacher))["kd"] == pytest.approx(3 * one)


def test_gradient_equals_finite_differences(make_output):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    objective = LogitDistillation()
    assert torch.autograd.gradcheck(lambda x: objective(make_output({}, x), signal_of(teacher))["kd"], student)


def test_gradient_hardly_depends_on_the_temperature(make_output):
    """For small logits T^2 KL tends to half their squared distance over the classes, for any T."""
    student, teacher = torch.tensor([[0.01, -0.01]]), torch.tensor([[-0.01, 0.01]])
    for temperature in (1.0, 4.0, 8.0):
        loss = LogitDistillation(temperature)(make_output({}, student), signal_of(teacher))["kd"]
        assert loss.item() == pytest.approx((2 * 0.02**2) / (2 * 2), rel=1e-2)


def test_loss_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    student = torch.tensor([[1.0, 2.0, 0.3]], requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, 0.1]], requires_grad=True)
    expected = LogitDistillation()(make_output({}, student), signal_of(teacher))["kd"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LogitDistillation()(make_output({}, student), signal_of(teacher))["kd"]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    assert teacher.grad is None
    bf16 = LogitDistillation()(make_output({}, student.bfloat16()), signal_of(teacher.bfloat16()))["kd"]
    assert bf16.dtype == torch.float32


def test_differing_classes_raise(make_output):
    with pytest.raises(ValueError, match=r"student logits \(2, 3\) and teacher logits \(2, 4\)"):
        LogitDistillation()(make_output({}, torch.zeros(2, 3)), signal_of(torch.zeros(2, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"weight": -1.0}, "weight must be positive and finite, got -1.0"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        LogitDistillation(**options)


def test_needs_no_calibration_and_leaves_signals_alone():
    signals = iter([signal_of(torch.zeros(1, 2))])
    objective = LogitDistillation()
    assert not objective.requires_calibration
    objective.calibrate(signals)
    assert len(list(signals)) == 1


def test_reports_itself():
    objective = LogitDistillation(temperature=2.0, weight=0.5)
    assert objective.to_dict() == {"name": "kd", "temperature": 2.0, "weight": 0.5}
    assert not objective.requires_tokens
    assert not objective.requires_entropies
    assert objective.branch_weights(signal_of(torch.zeros(1, 2))) == {}
    assert "Hinton" in objective.citation
