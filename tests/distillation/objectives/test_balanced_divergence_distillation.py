import math

import pytest
import torch
from relative_formulas import formula_logits, uniform

from hf_emktd.distillation import (
    OBJECTIVES_OF_TASK,
    BalancedDivergenceDistillation,
    LogitDistillation,
    MaskBalancedDivergenceDistillation,
    MaskLogitDistillation,
    TeacherSignal,
    entropy_of,
)


def signal_of(logits):
    return TeacherSignal(logits=logits, tokens={}, grids={})


def loss_of(make_output, student, teacher, kind=BalancedDivergenceDistillation, **options):
    parts = kind(**options)(make_output({}, student), signal_of(teacher))
    assert list(parts) == ["bd_kd"]
    return parts["bd_kd"]


def divergence(first, second, temperature=4.0):
    first, second = (first / temperature).log_softmax(dim=1), (second / temperature).log_softmax(dim=1)
    return temperature**2 * (first.exp() * (first - second)).sum(dim=1)


def test_loss_equals_hand_value(make_output):
    """Teacher (3/4, 1/4), student (1/2, 1/2), T = 1: forward and reverse divergence, weighted by their entropies."""
    loss = loss_of(make_output, torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), temperature=1.0)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    gap = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - math.log(2)
    weight = 1 / (1 + math.exp(-gap))
    assert weight < 0.5
    assert loss.item() == pytest.approx(weight * forward + (1 - weight) * reverse, rel=1e-5)


def test_equal_entropies_give_the_mean_of_both_divergences(make_output):
    student, teacher, _ = formula_logits()
    student = teacher.roll(1, dims=1)
    expected = (divergence(student, teacher) + divergence(teacher, student)).mean() / 2
    torch.testing.assert_close(loss_of(make_output, student, teacher), expected)


def test_forward_divergence_of_sure_students_and_reverse_of_doubting_ones(make_output):
    student, teacher, _ = formula_logits()
    surer = entropy_of(student) < entropy_of(teacher)
    assert surer.any() and not surer.all()
    expected = torch.where(surer, divergence(teacher, student), divergence(student, teacher)).mean()
    torch.testing.assert_close(loss_of(make_output, student, teacher, sharpness=1e4), expected)


def test_small_differences_are_those_of_kd(make_output):
    teacher = formula_logits()[1].double()
    student = teacher + 1e-3 * formula_logits()[0]
    kd = LogitDistillation(4.0)(make_output({}, student), signal_of(teacher))["kd"]
    assert loss_of(make_output, student, teacher).item() == pytest.approx(kd.item(), rel=1e-3)


def test_gradient_equals_finite_differences_of_fixed_weights(make_output):
    """The weights are constants: no student shall save loss by shifting them."""
    student, teacher = (logits.double() for logits in formula_logits()[:2])
    student.requires_grad_()
    weights = torch.sigmoid(entropy_of(teacher) - entropy_of(student.detach()))

    def fixed(x):
        return (weights * divergence(teacher, x) + (1 - weights) * divergence(x, teacher)).mean()

    assert torch.autograd.gradcheck(fixed, student)
    torch.testing.assert_close(loss_of(make_output, student, teacher), fixed(student))
    expected, found = (
        torch.autograd.grad(loss, student)[0] for loss in (fixed(student), loss_of(make_output, student, teacher))
    )
    torch.testing.assert_close(found, expected)


def test_order_of_clips_and_level_of_logits_do_not_matter(make_output):
    student, teacher, _ = formula_logits()
    expected = loss_of(make_output, student, teacher)
    torch.testing.assert_close(loss_of(make_output, student.flip(0), teacher.flip(0)), expected)
    torch.testing.assert_close(loss_of(make_output, student + 3, teacher - 2), expected)


def test_loss_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    student, teacher, _ = formula_logits()
    expected = loss_of(make_output, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(make_output, student.requires_grad_(), teacher.requires_grad_())
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert teacher.grad is None


def test_mask_is_two_classes_a_pixel(make_output):
    student, teacher = (uniform(name, 2, 3, 4, 4, scale=3) for name in ("student.mask", "teacher.mask"))
    two = [torch.stack([mask.flatten(), torch.zeros(96)], dim=1) for mask in (student, teacher)]
    loss = loss_of(make_output, student, teacher, MaskBalancedDivergenceDistillation, temperature=2.0)
    torch.testing.assert_close(loss, loss_of(make_output, *two, temperature=2.0))


def test_larger_teacher_masks_are_resized(make_output):
    student, teacher = uniform("student.mask", 1, 2, 4, 4), uniform("teacher.mask", 1, 2, 8, 8)
    kind = MaskBalancedDivergenceDistillation
    resized = torch.nn.functional.interpolate(teacher, size=(4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        loss_of(make_output, student, teacher, kind), loss_of(make_output, student, resized, kind)
    )


@pytest.mark.parametrize("size", [80.0, 1e4, 1e30])
def test_large_mask_logits_stay_finite(size, make_output):
    student = torch.tensor([size, -size, size, -size]).view(1, 1, 2, 2).requires_grad_()
    loss = loss_of(make_output, student, -student.detach(), MaskBalancedDivergenceDistillation)
    loss.backward()
    assert loss.item() == pytest.approx(size, rel=1e-5) and student.grad.isfinite().all()


def test_other_shapes_raise(make_output):
    with pytest.raises(ValueError, match="of the same clips"):
        loss_of(make_output, torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must be masks"):
        loss_of(make_output, torch.zeros(2, 3), torch.zeros(2, 3), MaskBalancedDivergenceDistillation)


@pytest.mark.parametrize("option", ["temperature", "sharpness", "weight"])
def test_invalid_option_raises(option):
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got 0"):
        BalancedDivergenceDistillation(**{option: 0.0})


def test_reports_itself_and_is_that_of_its_task():
    assert BalancedDivergenceDistillation(weight=2.0).to_dict() == {
        "name": "bd_kd",
        "temperature": 4.0,
        "weight": 2.0,
        "sharpness": 1.0,
    }
    assert MaskBalancedDivergenceDistillation().to_dict()["temperature"] == MaskLogitDistillation().temperature == 1.0
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert classification["bd_kd"] is BalancedDivergenceDistillation
    assert segmentation["bd_kd"] is MaskBalancedDivergenceDistillation
    assert "amara2022bdkd" in BalancedDivergenceDistillation.citation
