import copy
from types import SimpleNamespace

import pytest
import torch

from hf_emktd.distillation import BRANCHES, OrthogonalProjection

WIDTHS = dict.fromkeys(BRANCHES, 6)
WIDER = dict.fromkeys(BRANCHES, 9)


def vkd(student_widths=WIDTHS, teacher_widths=WIDER, seed=0, **options):
    torch.manual_seed(seed)
    return OrthogonalProjection(student_widths, teacher_widths, **options)


def test_part_equals_hand_value(make_tokens, make_signal, make_output):
    """
    Official `engine.py`: smooth L1 of the projected mean of student tokens from the LayerNorm of the teacher's.
    """
    objective = vkd(weight=2.0)
    tokens, signal = make_tokens(), make_signal(width=9, seed=1)
    parts = objective(make_output(tokens), signal)
    assert list(parts) == ["vkd_audio", "vkd_visual", "vkd_fusion"]
    pooled = signal.tokens["audio"].mean(dim=1)
    centred = pooled - pooled.mean(dim=1, keepdim=True)
    target = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    difference = tokens["audio"].mean(dim=1) @ objective.projections["audio"].weight.T - target
    losses = torch.where(difference.abs() < 1, difference**2 / 2, difference.abs() - 0.5)
    assert (difference.abs() > 1).any() and (difference.abs() < 1).any()
    torch.testing.assert_close(parts["vkd_audio"], 2 * losses.mean())


@pytest.mark.parametrize("student_width", [4, 6, 9])
def test_maps_stay_orthogonal_while_they_learn(student_width, make_tokens, make_signal, make_output):
    widths = dict.fromkeys(BRANCHES, student_width)
    objective = vkd(widths, dict.fromkeys(BRANCHES, 6))
    tokens, signal = make_tokens(width=student_width), make_signal(width=6, seed=1)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=0.05, weight_decay=0.05)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = sum(objective(make_output(tokens), signal).values())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    for branch in BRANCHES:
        weight = objective.projections[branch].weight
        narrow = weight.T @ weight if student_width <= 6 else weight @ weight.T
        torch.testing.assert_close(narrow, torch.eye(len(narrow)), atol=1e-5, rtol=0)


def test_map_keeps_the_relations_of_a_narrower_student():
    vectors = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    projected = vkd().projections["fusion"](vectors)
    torch.testing.assert_close(projected @ projected.T, vectors @ vectors.T)


def test_neither_counts_nor_order_of_tokens_matter(make_tokens, make_signal, make_output):
    objective = vkd()
    tokens, signal = make_tokens(), make_signal(width=9, seed=1)
    expected = objective(make_output(tokens), signal)
    signal.tokens = {branch: torch.cat([value, value.flip(1)], dim=1) for branch, value in signal.tokens.items()}
    torch.testing.assert_close(objective(make_output(tokens), signal), expected)


def test_length_of_the_teacher_tokens_does_not_matter(make_tokens, make_signal, make_output):
    objective = vkd().double()
    tokens = make_tokens(dtype=torch.float64)
    signal = make_signal(width=9, seed=1, dtype=torch.float64)
    scaled = make_signal(width=9, seed=1, dtype=torch.float64)
    scaled.tokens = {branch: 50 * value + 3 for branch, value in scaled.tokens.items()}
    # LayerNorm's epsilon, 1e-5, weighs against variances of 1 / tokens
    torch.testing.assert_close(
        objective(make_output(tokens), scaled), objective(make_output(tokens), signal), rtol=1e-3, atol=0
    )


def test_gradients_equal_finite_differences(make_tokens, make_signal, make_output):
    objective = vkd(branches=("visual",)).double()
    tokens = make_tokens(dtype=torch.float64)["visual"].requires_grad_()
    signal = make_signal(width=9, seed=1, dtype=torch.float64)
    (name, parameter), *others = objective.named_parameters()
    assert not others

    def part(value, raw):
        output = make_output({"visual": value})
        return torch.func.functional_call(objective, {name: raw}, (output, signal))["vkd_visual"]

    assert torch.autograd.gradcheck(part, (tokens, parameter))


def test_state_dict_restores_the_maps(make_tokens, make_signal, make_output):
    objective, other = vkd(), vkd(seed=1)
    output, signal = make_output(make_tokens()), make_signal(width=9, seed=1)
    assert other(output, signal) != objective(output, signal)
    other.load_state_dict(objective.state_dict())
    assert other(output, signal) == objective(output, signal)
    assert copy.deepcopy(objective)(output, signal) == objective(output, signal)


def test_widths_come_from_the_configs():
    student, teacher = (SimpleNamespace(branch_widths=widths) for widths in (WIDTHS, WIDER))
    objective = OrthogonalProjection.for_models(student, teacher, branches=("audio", "fusion"), weight=0.5)
    assert {branch: tuple(layer.weight.shape) for branch, layer in objective.projections.items()} == {
        "audio": (9, 6),
        "fusion": (9, 6),
    }
    assert objective.to_dict() == {"name": "vkd", "weight": 0.5, "branches": ["audio", "fusion"]}


def test_missing_width_raises():
    with pytest.raises(ValueError, match=r"teacher_widths needs the widths of visual, fusion, got \{'audio': 9\}"):
        OrthogonalProjection(WIDTHS, {"audio": 9})


def test_cites_its_paper():
    assert "miles2024vkd" in OrthogonalProjection.citation
