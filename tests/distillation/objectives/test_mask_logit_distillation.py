import math

import pytest
import torch
from torch.nn import functional as F

from hf_emktd.distillation import OBJECTIVES_OF_TASK, LogitDistillation, MaskLogitDistillation, TeacherSignal


def signal_of(logits):
    return TeacherSignal(logits=logits, tokens={}, grids={})


def loss_of(make_output, student, teacher, **options):
    parts = MaskLogitDistillation(**options)(make_output({}, student), signal_of(teacher))
    assert list(parts) == ["kd"]
    return parts["kd"]


def random_masks(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_loss_equals_hand_value(make_output):
    """Of two pixels the teacher has 0.75 and 0.5 at T = 2, the student 0.5 both: 4 (0.75 ln 1.5 + 0.25 ln 0.5) / 2."""
    teacher = torch.tensor([2 * math.log(3), 0.0]).view(1, 1, 1, 2)
    loss = loss_of(make_output, torch.zeros(1, 1, 1, 2), teacher, temperature=2.0)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, rel=1e-5)


def test_mean_over_pixels_frames_and_clips(make_output):
    student, teacher = random_masks(2, 3, 4, 5), random_masks(2, 3, 4, 5, seed=1)
    pixels = [mask.reshape(-1, 1, 1, 1, 1) for mask in (student, teacher)]
    alone = torch.stack([loss_of(make_output, *pixel) for pixel in zip(*pixels, strict=True)])
    torch.testing.assert_close(loss_of(make_output, student, teacher), alone.mean())


def test_two_classes_of_the_softmax_are_the_same(make_output):
    student, teacher = random_masks(1, 1, 1, 6), random_masks(1, 1, 1, 6, seed=1)
    two_classes = [torch.stack([mask.flatten(), torch.zeros(6)], dim=1) for mask in (student, teacher)]
    expected = LogitDistillation(3.0)(make_output({}, two_classes[0]), signal_of(two_classes[1]))["kd"]
    torch.testing.assert_close(loss_of(make_output, student, teacher, temperature=3.0), expected)


def test_weight_multiplies_and_the_default_temperature_is_1(make_output):
    student, teacher = random_masks(1, 2, 4, 4), random_masks(1, 2, 4, 4, seed=1)
    one = loss_of(make_output, student, teacher)
    torch.testing.assert_close(loss_of(make_output, student, teacher, weight=3.0, temperature=1.0), 3 * one)


def test_equal_masks_have_loss_and_gradient_zero(make_output):
    student = random_masks(2, 2, 3, 3, scale=20.0).requires_grad_()
    loss = loss_of(make_output, student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("teacher_side", [4, 10, 3])
def test_gradient_equals_finite_differences(temperature, teacher_side, make_output):
    student = random_masks(2, 2, 4, 4).requires_grad_()
    teacher = random_masks(2, 2, teacher_side, teacher_side, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss_of(make_output, x, teacher, temperature=temperature), student)


def test_gradient_at_temperature_1_is_the_difference_of_the_probabilities(make_output):
    student, teacher = random_masks(1, 1, 4, 4).requires_grad_(), random_masks(1, 1, 4, 4, seed=1)
    loss_of(make_output, student, teacher).backward()
    torch.testing.assert_close(student.grad, (student.detach().sigmoid() - teacher.sigmoid()) / 16)


@pytest.mark.parametrize("size", [80.0, 1e4, 1e30])
def test_large_logits_stay_finite(size, make_output):
    student = torch.tensor([size, -size, size, -size]).view(1, 1, 2, 2).requires_grad_()
    teacher = torch.tensor([size, -size, -size, size]).view(1, 1, 2, 2)
    loss = loss_of(make_output, student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(size / 2, rel=1e-5)  # two of four pixels are wrong by `size` nats
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([0, 0, 0.25, -0.25]))


def test_larger_teacher_is_resized_with_antialiasing(make_output):
    student, teacher = random_masks(1, 2, 4, 4), random_masks(1, 2, 10, 10, seed=1)
    resized = F.interpolate(teacher, size=(4, 4), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(loss_of(make_output, student, teacher), loss_of(make_output, student, resized))
    aliased = F.interpolate(teacher, size=(4, 4), mode="bilinear", align_corners=False)
    assert not torch.allclose(resized, aliased)


def test_smaller_teacher_is_resized_bilinearly(make_output):
    student, teacher = random_masks(1, 2, 8, 8), random_masks(1, 2, 4, 4, seed=1)
    resized = F.interpolate(teacher, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss_of(make_output, student, teacher), loss_of(make_output, student, resized))


def test_loss_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    student = random_masks(1, 2, 4, 4).float().requires_grad_()
    teacher = random_masks(1, 2, 6, 6, seed=1).float().requires_grad_()
    expected = loss_of(make_output, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(make_output, student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    assert teacher.grad is None
    assert loss_of(make_output, student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 2, 4, 4)])
def test_other_clips_or_frames_raise(shape, make_output):
    with pytest.raises(ValueError, match=r"student logits \(1, 2, 4, 4\) and teacher logits .* same clips and frames"):
        loss_of(make_output, torch.zeros(1, 2, 4, 4), torch.zeros(shape))


def test_logits_of_classes_raise(make_output):
    with pytest.raises(ValueError, match=r"student logits \(2, 3\) .* must be masks"):
        loss_of(make_output, torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("option", ["temperature", "weight"])
def test_invalid_option_raises(option):
    with pytest.raises(ValueError, match=f"MaskLogitDistillation: {option} must be positive and finite, got 0"):
        MaskLogitDistillation(**{option: 0.0})


def test_reports_itself():
    objective = MaskLogitDistillation(weight=2.0)
    assert objective.to_dict() == {"name": "kd", "temperature": 1.0, "weight": 2.0}
    assert "hinton2015distilling" in objective.citation
    assert not objective.requires_tokens and not objective.requires_entropies


def test_is_kd_of_segmentation():
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert segmentation["kd"] is MaskLogitDistillation and classification["kd"] is LogitDistillation
    assert segmentation["ktd"] is classification["ktd"]
