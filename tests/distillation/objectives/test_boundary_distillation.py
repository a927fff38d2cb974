import math

import pytest
import torch
from relative_formulas import uniform

from hf_emktd.distillation import OBJECTIVES_OF_TASK, BoundaryDistillation, TeacherSignal
from hf_emktd.distillation.objectives.boundary_distillation import mask_boundary, mean_over, reference_masks


def parts_of(make_output, student, teacher, labels=None, **options):
    signal = TeacherSignal(logits=teacher, tokens={}, grids={})
    parts = BoundaryDistillation(**options)(make_output({}, student), signal, labels)
    assert list(parts) == ["bpkd_edge", "bpkd_body"]
    return parts


def square_mask(side=9, half=1):
    """A square of 1 in the middle."""
    mask = torch.zeros(1, 1, side, side)
    middle = slice(side // 2 - half, side // 2 + half + 1)
    mask[..., middle, middle] = 1
    return mask


def masks(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_boundary_is_what_dilation_and_erosion_leave():
    """A square of 3 x 3: dilated by 1 it has 25 pixels, eroded one."""
    boundary = mask_boundary(square_mask(), radius=1)
    assert boundary.sum() == 24 and not boundary[0, 0, 4, 4] and boundary[0, 0, 2:7, 2:7].sum() == 24
    assert mask_boundary(square_mask(), radius=3).sum() == 81  # dilated to all, nothing is left of it eroded
    assert torch.equal(mask_boundary(1 - square_mask(), radius=1), boundary)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_border_of_the_frame_is_no_boundary(value):
    assert not mask_boundary(torch.full((1, 2, 5, 5), value), radius=3).any()


def test_labels_before_the_teachers_masks():
    teacher = torch.tensor([2.0, -2.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    labels = torch.tensor([[0, 1], [-100, -100]]).view(1, 2, 1, 2)
    assert reference_masks(teacher, labels).flatten().tolist() == [0, 1, 1, 0]
    assert reference_masks(teacher, None).flatten().tolist() == [1, 0, 1, 0]


def test_mean_over_frames_that_have_such_pixels():
    values = torch.arange(12.0).view(1, 3, 2, 2)
    where = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    where[0, 0, 0, 1] = where[0, 2, 1] = True
    assert mean_over(values, where) == (1 + (10 + 11) / 2) / 2
    assert mean_over(values, torch.zeros_like(where)) == 0


def test_parts_equal_hand_values(make_output):
    """At T = 2 the teacher has 0.75 in the square, 0.25 elsewhere, the student 0.5 everywhere: one KL for all."""
    teacher = (2 * square_mask() - 1) * 2 * math.log(3)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    parts = parts_of(make_output, torch.zeros(1, 1, 9, 9), teacher, radius=1, temperature=2.0, weight=0.1)
    assert parts["bpkd_edge"].item() == pytest.approx(0.1 * 50 * 4 * divergence, rel=1e-5)
    assert parts["bpkd_body"].item() == pytest.approx(0.1 * 20 * 4 * divergence, rel=1e-5)


def test_error_on_the_boundary_counts_there_alone(make_output):
    teacher = (2 * square_mask() - 1) * 3
    boundary = mask_boundary(square_mask(), radius=1)
    wrong_edge, wrong_body = teacher.masked_fill(boundary, 0), teacher.masked_fill(~boundary, 0)
    on_edge, on_body = (parts_of(make_output, wrong, teacher, radius=1) for wrong in (wrong_edge, wrong_body))
    assert on_edge["bpkd_edge"] > 1 and on_edge["bpkd_body"] == 0
    assert on_body["bpkd_body"] > 1 and on_body["bpkd_edge"] == 0


def test_channel_body_equals_the_papers_form(make_output):
    """KL of the softmax over a frame's places, of logits that are 0 on the boundary, times T squared."""
    student, teacher = uniform("student.mask", 2, 3, 9, 9, scale=3), uniform("teacher.mask", 2, 3, 9, 9, scale=3)
    labels = square_mask().long().expand(2, 3, 9, 9)
    body = ~mask_boundary(square_mask(), radius=1)
    inside = [(logits * body / 4).flatten(2).softmax(dim=-1) for logits in (student, teacher)]
    expected = 16 * (inside[1] * (inside[1] / inside[0]).log()).sum(dim=-1).mean()
    parts = parts_of(make_output, student, teacher, labels, radius=1, body="channel")
    torch.testing.assert_close(parts["bpkd_body"], 20 * expected)


def test_unlabelled_frames_have_the_teachers_boundary(make_output):
    """A teacher whose mask is the ground truth gives the same parts with and without labels."""
    student, teacher = uniform("student.mask", 1, 2, 9, 9), (2 * square_mask() - 1).expand(1, 2, 9, 9)
    labels = square_mask().long().repeat(1, 2, 1, 1)
    labels[:, 1] = -100
    expected = parts_of(make_output, student, teacher, None, radius=1)
    for name, part in parts_of(make_output, student, teacher, labels, radius=1).items():
        torch.testing.assert_close(part, expected[name])
    shifted = parts_of(make_output, student, teacher, labels.roll(2, dims=3), radius=1)
    assert not torch.isclose(shifted["bpkd_edge"], expected["bpkd_edge"])


def test_silent_frames_have_no_edge_part(make_output):
    teacher = torch.full((1, 2, 9, 9), -3.0)
    parts = parts_of(make_output, torch.zeros(1, 2, 9, 9, requires_grad=True), teacher)
    assert parts["bpkd_edge"] == 0 and parts["bpkd_body"] > 0
    sum(parts.values()).backward()


def test_larger_teacher_masks_are_resized(make_output):
    student, teacher = uniform("student.mask", 1, 2, 8, 8), uniform("teacher.mask", 1, 2, 16, 16, scale=3)
    resized = torch.nn.functional.interpolate(teacher, size=(8, 8), mode="bilinear", antialias=True)
    expected = parts_of(make_output, student, resized)
    for name, part in parts_of(make_output, student, teacher).items():
        torch.testing.assert_close(part, expected[name])


@pytest.mark.parametrize("body", ["bernoulli", "channel"])
def test_gradient_equals_finite_differences(body, make_output):
    student, teacher = masks(0, 1, 2, 5, 5).requires_grad_(), masks(1, 1, 2, 5, 5)
    labels = square_mask(5).long().expand(1, 2, 5, 5)

    def parts(x):
        return tuple(parts_of(make_output, x, teacher, labels, radius=1, body=body).values())

    assert torch.autograd.gradcheck(parts, student)


def test_parts_are_float32_under_autocast_and_give_the_teacher_no_gradient(make_output):
    student, teacher = uniform("student.mask", 1, 2, 9, 9), uniform("teacher.mask", 1, 2, 9, 9)
    expected = parts_of(make_output, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = parts_of(make_output, student.requires_grad_(), teacher.requires_grad_())
    for name, part in parts.items():
        assert part.dtype == torch.float32 and torch.equal(part, expected[name])
    sum(parts.values()).backward()
    assert teacher.grad is None


def test_other_shapes_raise(make_output):
    with pytest.raises(ValueError, match="must be masks"):
        parts_of(make_output, torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"labels \(1, 2, 9, 9\) must be masks like .*\(1, 2, 8, 8\)"):
        parts_of(make_output, torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 9, 9))


@pytest.mark.parametrize("option", ["body_weight", "edge_weight", "radius", "temperature", "weight"])
def test_invalid_constant_raises(option):
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got 0"):
        BoundaryDistillation(**{option: 0})


def test_unknown_body_raises():
    with pytest.raises(ValueError, match="unknown body 'spatial'; known are bernoulli, channel"):
        BoundaryDistillation(body="spatial")


def test_reports_itself_and_is_for_masks():
    assert BoundaryDistillation().to_dict() == {
        "name": "bpkd",
        "body_weight": 20.0,
        "edge_weight": 50.0,
        "radius": 3,
        "temperature": 4.0,
        "body": "bernoulli",
        "weight": 1.0,
    }
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert segmentation["bpkd"] is BoundaryDistillation and "bpkd" not in classification
    assert "liu2024bpkd" in BoundaryDistillation.citation
