import math

import pytest
import torch
from relative_formulas import uniform

from hf_emktd.distillation import BRANCHES, OBJECTIVES_OF_TASK, TeacherSignal, TokenRelationGraph, pool_branch
from hf_emktd.distillation.objectives.token_relation_graph import (
    inner_relation_loss,
    local_graph_loss,
    token_contrast_loss,
)
from hf_emktd.models.cav_mae import CavMaeConfig

GRIDS = {"audio": ((2, 3),)}
TERMS = ("inner", "local", "global")


def audio_tokens(role, width=4, clips=2, dtype=torch.float64):
    return uniform(f"{role}.tokens", clips, 6, width).to(dtype)


def audio_objective(widths=(4, 4), **options):
    student, teacher = ({"audio": width} for width in widths)
    return TokenRelationGraph(GRIDS, student, teacher, branches=("audio",), **options)


def loss_of(make_output, student, teacher, objective=None, **options):
    widths = (student.shape[2], teacher.shape[2])
    objective = audio_objective(widths, **options).to(student.dtype) if objective is None else objective
    parts = objective(make_output({"audio": student}), TeacherSignal(torch.zeros(2, 2), {"audio": teacher}, GRIDS))
    assert list(parts) == ["trg_audio"]
    return parts["trg_audio"]


def only(term, weight=1.0):
    return {f"{name}_weight": weight if name == term else 0.0 for name in TERMS}


def test_inner_relations_equal_hand_value():
    """Width 1: tokens 0 and sqrt(ln 3) have rows (1/2, 1/2) and (1/4, 3/4); those of a student of zeros are even."""
    teacher = torch.tensor([[[0.0], [math.log(3) ** 0.5]]])
    loss = inner_relation_loss(torch.zeros(1, 2, 5), teacher)
    assert loss.item() == pytest.approx((0 + 2 * 0.25**2) / 2, rel=1e-5)


def test_inner_relations_are_scaled_by_the_width():
    teacher = torch.tensor([[[1.0], [2.0]]])
    same = torch.tensor([[[1.0], [2.0]]]).expand(1, 2, 4) / 2**0.5  # four times the product / 2, over sqrt 4
    assert inner_relation_loss(same, teacher).item() < 1e-12


def test_local_graph_equals_hand_value():
    """
    Directions at 0, 60 and 90 degrees; the first token's two edges have squared distances 1 and 2, the student's
    2 and 2. With sigma 1 / (2 ln 3) the teacher's weights are 1/3 and 1/9: 3/4 and 1/4.
    """
    teacher = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0]])
    student = torch.eye(3)
    sigma = 1 / (2 * math.log(3))
    rows = torch.tensor([[1, 2], [1, 2 - 3**0.5], [2, 2 - 3**0.5]])
    edges = (-rows * math.log(3)).softmax(dim=1)
    torch.testing.assert_close(edges[0], torch.tensor([0.75, 0.25]))
    expected = (edges * (edges / 0.5).log()).sum(dim=1).mean()
    assert local_graph_loss(student, teacher, 2, sigma).item() == pytest.approx(expected.item(), rel=1e-5)
    assert local_graph_loss(student, teacher, 1, sigma).item() == pytest.approx(0, abs=1e-6)  # one edge is all


def test_edges_lead_to_the_teachers_nearest():
    """Two groups of three: a student that moves one group, but nothing inside it, has loss 0 for two neighbours."""
    angles = torch.tensor([0.0, 0.2, 0.5, 2.0, 2.2, 2.6], dtype=torch.float64)
    moved = angles - 0.9 * (angles > 1)
    teacher, student = (torch.stack([each.cos(), each.sin()], dim=1) for each in (angles, moved))
    assert local_graph_loss(student, teacher, 2, 0.1).item() == pytest.approx(0, abs=1e-12)
    assert local_graph_loss(student, teacher, 3, 0.1).item() > 0.01


def test_contrast_equals_hand_value():
    """Orthogonal tokens of any length at temperature 1 / ln 3: each of two is told with probability 3/4."""
    teacher = torch.eye(2)
    loss = token_contrast_loss(5 * teacher, teacher, 1 / math.log(3))
    assert loss.item() == pytest.approx(-math.log(0.75), rel=1e-5)
    assert token_contrast_loss(teacher.flip(0), teacher, 1 / math.log(3)).item() == pytest.approx(
        math.log(4), rel=1e-5
    )


def test_part_is_the_weighted_sum_of_the_terms(make_output):
    student, teacher = audio_tokens("student"), audio_tokens("teacher", 7)
    objective = audio_objective((4, 7), weight=3.0).double()
    rows = student.flatten(0, 1), teacher.flatten(0, 1)
    expected = (
        inner_relation_loss(student, teacher)
        + local_graph_loss(*rows, 8, 0.1)
        + 0.1 * token_contrast_loss(objective.projections["audio"](rows[0]), rows[1], 0.1)
    )
    torch.testing.assert_close(loss_of(make_output, student, teacher, objective), 3 * expected)


@pytest.mark.parametrize("term", TERMS)
def test_term_can_stand_alone(term, make_output):
    student, teacher = audio_tokens("student"), audio_tokens("teacher")
    loss = loss_of(make_output, student, teacher, **only(term, 2.0))
    torch.testing.assert_close(loss, 2 * loss_of(make_output, student, teacher, **only(term)))
    assert loss > 1e-3
    if term != "global":
        assert loss_of(make_output, teacher, teacher, **only(term)).item() < 1e-12


@pytest.mark.parametrize("term", TERMS)
def test_order_of_clips_and_tokens_does_not_matter_unless_the_sides_differ(term, make_output):
    student, teacher = audio_tokens("student"), audio_tokens("teacher")
    expected = loss_of(make_output, student, teacher, **only(term))
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    turned = loss_of(make_output, student.flip(0)[:, order], teacher.flip(0)[:, order], **only(term))
    torch.testing.assert_close(turned, expected)
    assert not torch.isclose(loss_of(make_output, student[:, order], teacher, **only(term)), expected)


@pytest.mark.parametrize("term", ["local", "global"])
def test_length_of_tokens_does_not_matter_between_clips(term, make_output):
    student, teacher = audio_tokens("student"), audio_tokens("teacher")
    expected = loss_of(make_output, student, teacher, **only(term))
    torch.testing.assert_close(loss_of(make_output, 5 * student, 0.1 * teacher, **only(term)), expected)


def test_tokens_of_large_batches_are_drawn(make_output):
    student, teacher = audio_tokens("student"), audio_tokens("teacher")
    options = {"inner_weight": 0.0, "sampled_tokens": 5}
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(loss_of(make_output, student, teacher, **options))
    assert losses[0] == losses[1] != losses[2]
    torch.manual_seed(0)
    drawn = torch.randperm(12)[:5]
    rows = student.flatten(0, 1)[drawn], teacher.flatten(0, 1)[drawn]
    expected = local_graph_loss(*rows, 8, 0.1) + 0.1 * token_contrast_loss(*rows, 0.1)
    torch.testing.assert_close(losses[0], expected)


def test_teachers_tokens_are_pooled_onto_the_students_grid(make_output):
    grids, tokens = {"audio": ((4, 3),)}, uniform("teacher.fine", 2, 12, 4).double()
    student = audio_tokens("student")
    signal = TeacherSignal(torch.zeros(2, 2), {"audio": tokens}, grids)
    part = audio_objective()(make_output({"audio": student}), signal)["trg_audio"]
    pooled = pool_branch("audio", tokens, grids, GRIDS)
    torch.testing.assert_close(part, loss_of(make_output, student, pooled))


@pytest.mark.parametrize("term", TERMS)
def test_gradient_equals_finite_differences(term, make_output):
    student, teacher = audio_tokens("student").requires_grad_(), audio_tokens("teacher", 5)
    objective = audio_objective((4, 5), **only(term)).double()
    assert torch.autograd.gradcheck(lambda x: loss_of(make_output, x, teacher, objective), student)


def test_projection_learns_only_where_it_is_needed(make_output):
    objective = audio_objective((4, 7)).double()
    loss_of(make_output, audio_tokens("student"), audio_tokens("teacher", 7), objective).backward()
    assert objective.projections["audio"].weight.grad.abs().max() > 0
    assert not list(audio_objective((4, 4)).parameters())
    assert not list(audio_objective((4, 7), global_weight=0.0).parameters())


def test_single_token_has_no_neighbours():
    token = torch.ones(1, 3, requires_grad=True)
    loss = local_graph_loss(token, torch.ones(1, 3), 8, 0.1)
    loss.backward()
    assert loss == 0 and token.grad.isfinite().all()


def test_part_is_float32_under_autocast_and_gives_the_teacher_no_gradient(make_output):
    student, teacher = (audio_tokens(role, dtype=torch.float32) for role in ("student", "teacher"))
    expected = loss_of(make_output, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(make_output, student.requires_grad_(), teacher.requires_grad_())
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert teacher.grad is None


def test_for_models_has_all_branches(make_model, make_signal, make_output, batch):
    student, teacher = (CavMaeConfig(hidden_size=size, num_attention_heads=2) for size in (16, 32))
    objective = TokenRelationGraph.for_models(student, teacher)
    shapes = {branch: tuple(layer.weight.shape) for branch, layer in objective.projections.items()}
    assert shapes == dict.fromkeys(BRANCHES, (32, 16))
    model = make_model()
    inputs = {name: batch[name] for name in ("input_values", "pixel_values")}
    objective = TokenRelationGraph.for_models(model.config, model.config, sampled_tokens=20)
    assert list(objective(model(**inputs, output_tokens=True), make_signal(width=16, batch=2))) == [
        f"trg_{branch}" for branch in BRANCHES
    ]


def test_other_numbers_of_clips_raise():
    with pytest.raises(ValueError, match="need equal counts of clips and tokens"):
        inner_relation_loss(torch.ones(2, 3, 4), torch.ones(1, 3, 4))


@pytest.mark.parametrize("option", ["sampled_tokens", "sigma", "temperature", "weight"])
def test_invalid_option_raises(option):
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got 0"):
        audio_objective(**{option: 0})


def test_single_neighbour_is_refused():
    with pytest.raises(ValueError, match="neighbours must be at least 2, got 1"):
        audio_objective(neighbours=1)


@pytest.mark.parametrize("weights", [{"local_weight": -1.0}, only("none")])
def test_invalid_weights_raise(weights):
    with pytest.raises(ValueError, match="inner, local and global weight must not be negative nor all be 0"):
        audio_objective(**weights)


def test_reports_itself_and_is_for_both_tasks():
    assert audio_objective(neighbours=3).to_dict() == {
        "name": "trg",
        "weight": 1.0,
        "branches": ["audio"],
        "inner_weight": 1.0,
        "local_weight": 1.0,
        "global_weight": 0.1,
        "sampled_tokens": 512,
        "neighbours": 3,
        "sigma": 0.1,
        "temperature": 0.1,
    }
    assert all(known["trg"] is TokenRelationGraph for known in OBJECTIVES_OF_TASK.values())
    assert "zhang2023token" in TokenRelationGraph.citation
