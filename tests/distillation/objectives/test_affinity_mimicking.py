import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from relative_formulas import formula_pairs

from hf_emktd.distillation import OBJECTIVES_OF_TASK, AffinityMimicking, TeacherSignal

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "relatives.json").read_text())["affinity"]


def formula_tokens(dtype=torch.float32):
    """Audio and visual tokens of student and teacher whose means are the formula's, two of each clip."""
    spread = torch.tensor([0.3, -0.3], dtype=dtype).view(1, 2, 1)
    return {name: value.to(dtype).unsqueeze(1) + spread for name, value in formula_pairs().items()}


def loss_of(make_output, tokens, order=slice(None), **options):
    student, teacher = (
        {branch: tokens[f"{role}.{branch}"][order] for branch in ("audio", "visual")}
        for role in ("student", "teacher")
    )
    signal = TeacherSignal(logits=torch.zeros(1, 2), tokens=teacher, grids={})
    parts = AffinityMimicking(**options)(make_output(student), signal)
    assert list(parts) == ["affinity"]
    return parts["affinity"]


def test_loss_equals_the_official_one(make_output):
    assert loss_of(make_output, formula_tokens()).item() == pytest.approx(GOLDEN["loss"], rel=1e-5)


def test_loss_equals_hand_value(make_output):
    """
    Scale ln 3: the teacher's sounds and pictures are the two axes, so its rows are (3/4, 1/4) and (1/4, 3/4); those
    of a student that does not tell pictures apart are (1/2, 1/2) both ways.
    """
    axes, same = torch.eye(2).unsqueeze(1), torch.tensor([[[1.0, 0.0]]]).expand(2, 1, 2)
    tokens = {"student.audio": axes, "student.visual": same, "teacher.audio": 5 * axes, "teacher.visual": axes}
    both_ways = (math.log(2), -0.5 * (math.log(0.75) + math.log(0.25)))
    loss = loss_of(make_output, tokens, logit_scale=math.log(3))
    assert loss.item() == pytest.approx(sum(both_ways) / 2, rel=1e-5)


def test_least_loss_is_the_teachers_entropy(make_output):
    teacher = {name: value for name, value in formula_tokens().items() if name.startswith("teacher")}
    perfect = {name.replace("teacher", "student"): value.clone().requires_grad_() for name, value in teacher.items()}
    loss = loss_of(make_output, teacher | perfect)
    loss.backward()
    rows = [each.mean(dim=1) / each.mean(dim=1).norm(dim=1, keepdim=True) for each in teacher.values()]
    affinities = 50 * rows[0] @ rows[1].T
    entropies = [
        torch.distributions.Categorical(logits=logits).entropy().mean() for logits in (affinities, affinities.T)
    ]
    torch.testing.assert_close(loss, sum(entropies) / 2)
    assert all(value.grad.abs().max() < 1e-5 for value in perfect.values())


def test_order_of_clips_and_tokens_and_lengths_do_not_matter(make_output):
    tokens = formula_tokens()
    expected = loss_of(make_output, tokens)
    torch.testing.assert_close(loss_of(make_output, tokens, torch.tensor([3, 1, 0, 5, 2, 4])), expected)
    torch.testing.assert_close(
        loss_of(make_output, {name: 3 * each.flip(1) for name, each in tokens.items()}), expected
    )


def test_widths_and_counts_of_teacher_and_student_may_differ(make_output):
    tokens = formula_tokens()
    assert tokens["student.audio"].shape[2] != tokens["teacher.audio"].shape[2]
    loss_of(make_output, tokens | {"student.audio": tokens["student.audio"].repeat(1, 3, 1)})


def test_single_clip_costs_nothing(make_output):
    assert loss_of(make_output, formula_tokens(), slice(0, 1)).item() == 0


def test_gradient_equals_finite_differences(make_output):
    tokens = formula_tokens(torch.float64)
    students = [tokens[name].requires_grad_() for name in ("student.audio", "student.visual")]

    def loss(audio, visual):
        given = {"student.audio": audio, "student.visual": visual}
        return loss_of(make_output, tokens | given, slice(0, 3), logit_scale=5.0)

    assert torch.autograd.gradcheck(loss, students)


def test_loss_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    tokens = formula_tokens()
    expected = loss_of(make_output, tokens)
    tokens = {name: value.requires_grad_() for name, value in tokens.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(make_output, tokens)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert tokens["student.audio"].grad is not None and tokens["teacher.audio"].grad is None


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("branch", ["audio", "visual"])
def test_missing_branch_raises(role, branch, make_output):
    signal = TeacherSignal(logits=torch.zeros(1, 2), tokens={"audio": torch.ones(2, 1, 3)}, grids={})
    signal.tokens["visual"] = signal.tokens["audio"]
    student = dict(signal.tokens)
    del (student if role == "student" else signal.tokens)[branch]
    with pytest.raises(ValueError, match=f"the {role} returned no {branch} tokens"):
        AffinityMimicking()(make_output(student), signal)


@pytest.mark.parametrize("widths", [{"audio": 8, "visual": 16, "fusion": 8}, {"audio": 8}])
def test_models_without_a_common_space_are_refused(widths):
    good = SimpleNamespace(branch_widths={"audio": 8, "visual": 8})
    with pytest.raises(ValueError, match=r"the teacher's tokens have widths \{'audio': 8.* Leave affinity out"):
        AffinityMimicking.for_models(good, SimpleNamespace(branch_widths=widths))
    assert AffinityMimicking.for_models(good, good, weight=2.0).weight == 2.0


@pytest.mark.parametrize("option", ["logit_scale", "weight"])
def test_invalid_option_raises(option):
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got 0"):
        AffinityMimicking(**{option: 0.0})


def test_reports_itself_and_is_for_events():
    objective = AffinityMimicking()
    assert objective.to_dict() == {"name": "affinity", "logit_scale": 50.0, "weight": 1.0}
    assert objective.requires_tokens and "wu2023tinyclip" in objective.citation
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert classification["affinity"] is AffinityMimicking and "affinity" not in segmentation
