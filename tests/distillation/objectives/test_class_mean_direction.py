import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from relative_formulas import CLASSES, CLIPS, WIDTH, formula_features, formula_logits

from hf_emktd.distillation import OBJECTIVES_OF_TASK, ClassMeanDirection, TeacherSignal
from hf_emktd.models.cav_mae import CavMaeConfig

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "relatives.json").read_text())["nd"]
PAIR = {"audio": ((1, 2),)}


def audio_objective(student_width=WIDTH, teacher_width=WIDTH, num_labels=CLASSES, **options):
    widths = ({"audio": student_width}, {"audio": teacher_width})
    return ClassMeanDirection(PAIR, *widths, num_labels, branches=("audio",), **options)


def tokens_of(features):
    """Two tokens whose mean they are."""
    spread = torch.tensor([0.5, -0.5], dtype=features.dtype).view(1, 2, 1)
    return features.unsqueeze(1) + spread


def signal_of(features, labels=None):
    return TeacherSignal(
        logits=torch.zeros(len(features), CLASSES), tokens={"audio": tokens_of(features)}, grids=PAIR, labels=labels
    )


def with_means(means, **options):
    """An objective calibrated on one clip a class."""
    objective = audio_objective(means.shape[1], means.shape[1], len(means), **options).to(means.dtype)
    objective.calibrate([signal_of(means, torch.arange(len(means)))])
    return objective


def loss_of(objective, make_output, student, teacher, labels):
    parts = objective(make_output({"audio": tokens_of(student)}), signal_of(teacher), labels)
    assert list(parts) == ["nd_audio"]
    return parts["nd_audio"]


def test_loss_and_gradient_equal_the_official_ones(make_output):
    student, teacher, means = formula_features()
    student.requires_grad_()
    loss = loss_of(with_means(means), make_output, student, teacher, formula_logits()[2])
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN["loss"], rel=1e-5)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor(GOLDEN["gradient"]))


def test_loss_equals_hand_value(make_output):
    """
    Mean (3, 4), direction (0.6, 0.8): a student (1, 0) shorter than its teacher of length 2 has 1 - 0.6 / 2, one of
    length 4 along the mean has 0.
    """
    objective = with_means(torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    teacher = torch.tensor([[2.0, 0.0]])
    assert loss_of(objective, make_output, torch.tensor([[1.0, 0.0]]), teacher, torch.tensor([0])).item() == (
        pytest.approx(0.7)
    )
    assert loss_of(objective, make_output, torch.tensor([[2.4, 3.2]]), teacher, torch.tensor([0])).item() == (
        pytest.approx(0, abs=1e-6)
    )


def test_class_means_of_batches_of_any_size():
    features, labels = torch.randn(7, WIDTH), torch.tensor([0, 1, 0, 4, 1, 0, 4])
    objective = audio_objective()
    assert objective.requires_calibration
    objective.calibrate(signal_of(features[part], labels[part]) for part in (slice(0, 5), slice(5, 7)))
    assert not objective.requires_calibration
    for label in (0, 1, 4):
        torch.testing.assert_close(objective.audio_class_means[label], features[labels == label].mean(dim=0))
    assert objective.to_dict()["classes_without_mean"] == {"audio": 2}


def test_mixed_clips_count_for_both_classes():
    features, labels = torch.randn(2, WIDTH), torch.tensor([[1.0, 0, 0, 0, 0], [0.25, 0.75, 0, 0, 0]])
    objective = audio_objective()
    objective.calibrate([signal_of(features, labels)])
    torch.testing.assert_close(objective.audio_class_means[0], (features[0] + 0.25 * features[1]) / 1.25)
    torch.testing.assert_close(objective.audio_class_means[1], features[1])


def test_larger_of_mixed_labels_is_the_class(make_output):
    student, teacher, means = formula_features()
    labels = formula_logits()[2]
    mixed = 0.6 * torch.nn.functional.one_hot(labels, CLASSES) + 0.08
    objective = with_means(means)
    expected = loss_of(objective, make_output, student, teacher, labels)
    assert torch.equal(loss_of(objective, make_output, student, teacher, mixed), expected)


def test_class_that_no_clip_showed_lends_the_clips_own_direction(make_output):
    student, teacher, means = formula_features()
    objective = audio_objective()
    objective.calibrate([signal_of(means[:1], torch.tensor([0]))])
    expected = with_means(torch.cat([means[:1], teacher[1:5]]))
    labels = torch.tensor([0, 1, 2, 3, 4])
    torch.testing.assert_close(
        loss_of(objective, make_output, student[:5], teacher[:5], labels),
        loss_of(expected, make_output, student[:5], teacher[:5], labels),
    )


def test_class_means_are_saved_and_need_no_second_calibration(make_output):
    student, teacher, means = formula_features()
    objective, other = with_means(means), audio_objective()
    other.load_state_dict(objective.state_dict())
    assert not other.requires_calibration
    labels = formula_logits()[2]
    expected = loss_of(objective, make_output, student, teacher, labels)
    assert torch.equal(loss_of(other, make_output, student, teacher, labels), expected)


def test_widths_that_differ_are_mapped(make_output):
    student, teacher, means = formula_features()
    objective = audio_objective(student_width=3)
    objective.calibrate([signal_of(means, torch.arange(CLASSES))])
    labels = formula_logits()[2]
    loss = loss_of(objective, make_output, student[:, :3], teacher, labels)
    mapped = objective.projections["audio"](student[:, :3])
    torch.testing.assert_close(loss, loss_of(with_means(means), make_output, mapped, teacher, labels))
    loss.backward()
    assert objective.projections["audio"].weight.grad.abs().max() > 0
    assert not list(audio_objective().parameters())


def test_tokens_are_pooled_onto_the_students_grids(make_output):
    """Of a teacher with four audio tokens and one visual one, fusion weighs both halves alike."""
    grids, student_grids = {"fusion": ((1, 4), (1, 1))}, {"fusion": ((1, 1), (1, 1))}
    objective = ClassMeanDirection(student_grids, {"fusion": 2}, {"fusion": 2}, 1, branches=("fusion",))
    tokens = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]]).unsqueeze(0)
    signal = TeacherSignal(torch.zeros(1, 1), {"fusion": tokens}, grids, labels=torch.tensor([0]))
    objective.calibrate([signal])
    torch.testing.assert_close(objective.fusion_class_means, torch.tensor([[0.5, 0.5]]))


def test_order_of_clips_and_tokens_does_not_matter(make_output):
    student, teacher, means = formula_features()
    objective, labels = with_means(means), formula_logits()[2]
    expected = loss_of(objective, make_output, student, teacher, labels)
    turned = loss_of(objective, make_output, student.flip(0), teacher.flip(0), labels.flip(0))
    torch.testing.assert_close(turned, expected)
    flipped = objective(make_output({"audio": tokens_of(student).flip(1)}), signal_of(teacher), labels)["nd_audio"]
    torch.testing.assert_close(flipped, expected)


def test_gradient_equals_finite_differences(make_output):
    student, teacher, means = (each.double() for each in formula_features())
    objective = with_means(means)
    labels = formula_logits()[2]
    assert torch.autograd.gradcheck(
        lambda x: loss_of(objective, make_output, x, teacher, labels), student.requires_grad_()
    )


def test_dead_features_stay_finite(make_output):
    objective = with_means(formula_features()[2])
    student = torch.zeros(1, WIDTH).requires_grad_()
    loss = loss_of(objective, make_output, student, torch.zeros(1, WIDTH), torch.tensor([0]))
    loss.backward()
    assert loss == 1 and student.grad.isfinite().all()


def test_part_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    student, teacher, means = formula_features()
    objective, labels = with_means(means), formula_logits()[2]
    expected = loss_of(objective, make_output, student, teacher, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(objective, make_output, student.requires_grad_(), teacher.requires_grad_(), labels)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert teacher.grad is None


def test_forward_before_calibrate_raises(make_output):
    student, teacher, _ = formula_features()
    with pytest.raises(RuntimeError, match=r"has not measured the class means. Call calibrate\(signals\)"):
        loss_of(audio_objective(), make_output, student, teacher, torch.zeros(CLIPS, dtype=torch.int64))


def test_missing_labels_raise(make_output):
    student, teacher, means = formula_features()
    with pytest.raises(ValueError, match="needs the labels of the clips, got None"):
        loss_of(with_means(means), make_output, student, teacher, None)
    with pytest.raises(ValueError, match="calibrate needs the labels of the clips"):
        audio_objective().calibrate([signal_of(means)])


def test_nothing_to_calibrate_on_raises():
    signal = replace(signal_of(torch.ones(1, WIDTH), torch.tensor([0])), tokens={})
    for signals in ([], [signal]):
        with pytest.raises(ValueError, match="calibrate got no teacher tokens of"):
            audio_objective().calibrate(signals)


def test_for_models_takes_grids_widths_and_classes():
    student, teacher = (CavMaeConfig(hidden_size=size, num_attention_heads=2, num_labels=3) for size in (16, 32))
    objective = ClassMeanDirection.for_models(student, teacher, clips_per_class=5)
    assert objective.calibration_clips == 15
    assert objective.visual_class_means.shape == (3, 32)
    assert objective.projections["fusion"].weight.shape == (32, 16)


@pytest.mark.parametrize("options", [{"num_labels": 0}, {"clips_per_class": 0}, {"weight": 0.0}])
def test_invalid_option_raises(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be positive and finite, got 0"):
        audio_objective(**options)


def test_missing_width_raises():
    with pytest.raises(ValueError, match="student_widths needs the widths of audio"):
        audio_objective(student_width=0)


def test_reports_itself_and_is_for_events():
    assert audio_objective(weight=2.0).to_dict() == {
        "name": "nd",
        "weight": 2.0,
        "branches": ["audio"],
        "calibration_clips": 50,
        "classes_without_mean": {"audio": 5},
    }
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert classification["nd"] is ClassMeanDirection and "nd" not in segmentation
    assert "wang2023improving" in ClassMeanDirection.citation
