import json
import math
from pathlib import Path

import pytest
import torch
from relative_formulas import formula_logits

from hf_emktd.distillation import (
    OBJECTIVES_OF_TASK,
    DecoupledLogitDistillation,
    LogitDistillation,
    TeacherSignal,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "relatives.json").read_text())["dkd"]


def loss_of(make_output, student, teacher, labels, **options):
    signal = TeacherSignal(logits=teacher, tokens={}, grids={})
    parts = DecoupledLogitDistillation(**options)(make_output({}, student), signal, labels)
    assert list(parts) == ["dkd"]
    return parts["dkd"]


@pytest.mark.parametrize(
    ("case", "options"), [("1.0 8.0 4.0", {}), ("0.5 2.0 1.0", {"alpha": 0.5, "beta": 2.0, "temperature": 1.0})]
)
def test_loss_and_gradient_equal_the_official_ones(case, options, make_output):
    student, teacher, labels = formula_logits()
    loss = loss_of(make_output, student.requires_grad_(), teacher, labels, **options)
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN[case]["loss"], rel=1e-5)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor(GOLDEN[case]["gradient"]), atol=1e-6, rtol=1e-5)


def test_loss_equals_hand_value(make_output):
    """
    Teacher (1/2, 1/3, 1/6), student uniform, target 0, T = 1: KL of (1/2, 1/2) from (1/3, 2/3), and 8 times that of
    (2/3, 1/3) from (1/2, 1/2).
    """
    teacher = torch.tensor([[3.0, 2.0, 1.0]]).log()
    loss = loss_of(make_output, torch.zeros(1, 3), teacher, torch.tensor([0]), temperature=1.0)
    on_target = 0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 3 / 2)
    on_others = 2 / 3 * math.log(2 / 3 * 2) + 1 / 3 * math.log(1 / 3 * 2)
    assert loss.item() == pytest.approx(on_target + 8 * on_others, rel=1e-5)


def test_kd_is_dkd_whose_beta_is_the_teachers_doubt(make_output):
    student, teacher, labels = (each[:1].double() for each in formula_logits())
    doubt = 1 - (teacher / 4).softmax(dim=1)[0, labels.long()].item()
    kd = LogitDistillation(4.0)(make_output({}, student), TeacherSignal(logits=teacher, tokens={}, grids={}))["kd"]
    torch.testing.assert_close(loss_of(make_output, student, teacher, labels.long(), beta=doubt), kd)


def test_larger_of_mixed_labels_is_the_target(make_output):
    student, teacher, labels = formula_logits()
    mixed = 0.6 * torch.nn.functional.one_hot(labels, 5) + 0.4 * torch.nn.functional.one_hot((labels + 1) % 5, 5)
    assert torch.equal(loss_of(make_output, student, teacher, mixed), loss_of(make_output, student, teacher, labels))


def test_order_of_clips_and_level_of_logits_do_not_matter(make_output):
    student, teacher, labels = formula_logits()
    expected = loss_of(make_output, student, teacher, labels)
    torch.testing.assert_close(loss_of(make_output, student.flip(0), teacher.flip(0), labels.flip(0)), expected)
    torch.testing.assert_close(loss_of(make_output, student + 3, teacher - 2, labels), expected)


def test_perfect_student_has_loss_and_gradient_zero(make_output):
    _, teacher, labels = formula_logits()
    student = teacher.clone().requires_grad_()
    loss = loss_of(make_output, student, teacher, labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6


def test_sure_models_stay_finite(make_output):
    """The teacher is sure of class 2, to which the student gives exp(-600), and exp(-300) given that it is not 0."""
    student = torch.tensor([[300.0, 0.0, -300.0]]).requires_grad_()
    loss = loss_of(make_output, student, -student.detach(), torch.tensor([0]), temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(300 + 8 * 300, rel=1e-5) and student.grad.isfinite().all()


def test_gradient_equals_finite_differences(make_output):
    student, teacher, labels = formula_logits()
    student, teacher = student.double().requires_grad_(), teacher.double()
    assert torch.autograd.gradcheck(lambda x: loss_of(make_output, x, teacher, labels), student)


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


def test_missing_labels_raise(make_output):
    student, teacher, _ = formula_logits()
    with pytest.raises(ValueError, match="needs the labels of the clips"):
        loss_of(make_output, student, teacher, None)


def test_masks_raise(make_output):
    with pytest.raises(ValueError, match=r"student logits \(2, 3, 4, 4\) .* must be \(batch, classes\)"):
        loss_of(make_output, torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("option", ["alpha", "beta", "temperature", "weight"])
def test_invalid_option_raises(option):
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got 0"):
        DecoupledLogitDistillation(**{option: 0.0})


def test_reports_itself_and_is_for_events():
    objective = DecoupledLogitDistillation()
    assert objective.to_dict() == {"name": "dkd", "alpha": 1.0, "beta": 8.0, "temperature": 4.0, "weight": 1.0}
    assert not objective.requires_tokens and "zhao2022decoupled" in objective.citation
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert classification["dkd"] is DecoupledLogitDistillation and "dkd" not in segmentation
