import json
import math
from pathlib import Path

import pytest
import torch
from relative_formulas import formula_logits

from hf_emktd.distillation import OBJECTIVES_OF_TASK, NormalisedLogitDistillation, TeacherSignal

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "relatives.json").read_text())["nkd"]


def loss_of(make_output, student, teacher, labels, **options):
    signal = TeacherSignal(logits=teacher, tokens={}, grids={})
    parts = NormalisedLogitDistillation(**options)(make_output({}, student), signal, labels)
    assert list(parts) == ["nkd"]
    return parts["nkd"]


@pytest.mark.parametrize(
    ("case", "options"), [("default", {}), ("gamma 0.5, temperature 2", {"gamma": 0.5, "temperature": 2.0})]
)
def test_loss_and_gradient_equal_the_official_ones(case, options, make_output):
    student, teacher, labels = formula_logits()
    loss = loss_of(make_output, student.requires_grad_(), teacher, labels, **options)
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN[case]["loss"], rel=1e-6)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor(GOLDEN[case]["gradient"]))


def test_loss_equals_hand_value(make_output):
    """
    Teacher (1/2, 1/3, 1/6), student uniform, target 0: 1/2 ln 3, and 1.5 times the cross entropy of (2/3, 1/3) and
    (1/2, 1/2), which is ln 2.
    """
    teacher = torch.tensor([[3.0, 2.0, 1.0]]).log()
    loss = loss_of(make_output, torch.zeros(1, 3), teacher, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.5 * math.log(3) + 1.5 * math.log(2), rel=1e-6)


def test_larger_of_mixed_labels_is_the_target(make_output):
    student, teacher, labels = formula_logits()
    mixed = 0.6 * torch.nn.functional.one_hot(labels, 5) + 0.4 * torch.nn.functional.one_hot((labels + 1) % 5, 5)
    assert torch.equal(loss_of(make_output, student, teacher, mixed), loss_of(make_output, student, teacher, labels))


def test_order_of_clips_and_level_of_logits_do_not_matter(make_output):
    student, teacher, labels = formula_logits()
    expected = loss_of(make_output, student, teacher, labels)
    torch.testing.assert_close(loss_of(make_output, student.flip(0), teacher.flip(0), labels.flip(0)), expected)
    torch.testing.assert_close(loss_of(make_output, student + 3, teacher - 2, labels), expected)


def test_two_classes_leave_the_target_alone(make_output):
    teacher, labels = torch.tensor([[math.log(3), 0.0]]), torch.tensor([0])
    loss = loss_of(make_output, torch.zeros(1, 2), teacher, labels)
    assert loss.item() == pytest.approx(0.75 * math.log(2), rel=1e-6)


def test_gradient_equals_finite_differences(make_output):
    student, teacher, labels = formula_logits()
    student, teacher = student.double().requires_grad_(), teacher.double()
    assert torch.autograd.gradcheck(lambda x: loss_of(make_output, x, teacher, labels, temperature=2.0), student)


def test_loss_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    student, teacher, labels = formula_logits()
    expected = loss_of(make_output, student, teacher, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(make_output, student.requires_grad_(), teacher.requires_grad_(), labels)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert teacher.grad is None


def test_weight_multiplies(make_output):
    inputs = formula_logits()
    torch.testing.assert_close(loss_of(make_output, *inputs, weight=3.0), 3 * loss_of(make_output, *inputs))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs the labels of the clips, got None"),
        (torch.zeros(6, 4), r"labels \(6, 4\) of torch.float32 are neither .* \(batch, 5\)"),
        (torch.zeros(6, 2, 8, 8, dtype=torch.int64), "are neither int64"),
    ],
)
def test_other_labels_raise(labels, message, make_output):
    student, teacher, _ = formula_logits()
    with pytest.raises(ValueError, match=message):
        loss_of(make_output, student, teacher, labels)


def test_other_logits_raise(make_output):
    student, teacher, labels = formula_logits()
    with pytest.raises(ValueError, match=r"student logits \(6, 5\) and teacher logits \(6, 4\)"):
        loss_of(make_output, student, teacher[:, :4], labels)


@pytest.mark.parametrize("option", ["gamma", "temperature", "weight"])
def test_invalid_option_raises(option):
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got 0"):
        NormalisedLogitDistillation(**{option: 0.0})


def test_reports_itself_and_is_for_events():
    objective = NormalisedLogitDistillation()
    assert objective.to_dict() == {"name": "nkd", "gamma": 1.5, "temperature": 1.0, "weight": 1.0}
    assert not objective.requires_tokens and "yang2023knowledge" in objective.citation
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert classification["nkd"] is NormalisedLogitDistillation and "nkd" not in segmentation
