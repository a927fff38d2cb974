import json
from pathlib import Path

import pytest
import torch
from token_formulas import GRID, formula_tokens

from hf_emktd.distillation import AttentionTransfer, TeacherSignal
from hf_emktd.distillation.objectives.attention_transfer import activity

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "baselines.json").read_text())
PAIR = {"audio": ((1, 2),)}


def audio_signal(tokens, grids=PAIR):
    return TeacherSignal(logits=torch.zeros(len(tokens), 2), tokens={"audio": tokens}, grids=grids)


def audio_loss(make_output, student, teacher, grids=PAIR, teacher_grids=None, **options):
    objective = AttentionTransfer(grids, branches=("audio",), **options)
    return objective(make_output({"audio": student}), audio_signal(teacher, teacher_grids or grids))["at_audio"]


def test_part_equals_the_official_loss(make_output):
    student, teacher = formula_tokens("student"), formula_tokens("teacher")
    loss = audio_loss(make_output, student, teacher, {"audio": (GRID,)})
    assert loss.item() == pytest.approx(1000 * GOLDEN["at"], rel=1e-9)


def test_part_equals_hand_value(make_output):
    """Mean squares (1, 1) and (9, 12) have directions (0.71, 0.71) and (0.6, 0.8)."""
    student = torch.tensor([[[1.0, 1.0], [-1.0, 1.0]]])
    teacher = torch.tensor([[[3.0, 3.0, 3.0], [6.0, 0.0, 0.0]]])
    loss = audio_loss(make_output, student, teacher, weight=1.0)
    root = 0.5**0.5
    assert loss.item() == pytest.approx(((root - 0.6) ** 2 + (root - 0.8) ** 2) / 2, rel=1e-5)


def test_maps_of_a_larger_teacher_are_pooled_not_its_tokens(make_output):
    """Neighbours (2, -2) have no mean but the activity 4; the other pair has 3."""
    student = torch.tensor([[[1.0], [1.0]]])
    teacher = torch.tensor([[[2.0], [-2.0], [3**0.5], [3**0.5]]])
    loss = audio_loss(make_output, student, teacher, teacher_grids={"audio": ((1, 4),)}, weight=1.0)
    root = 0.5**0.5
    assert loss.item() == pytest.approx(((root - 0.8) ** 2 + (root - 0.6) ** 2) / 2, rel=1e-5)


def test_every_branch_has_a_part_pooled_by_grid(student_grids, make_tokens, make_signal, make_output):
    grids = {"audio": ((8, 16),), "visual": ((4, 8),), "fusion": ((8, 16), (4, 8))}
    tokens, signal = make_tokens(), make_signal(grids, width=9, seed=1)
    parts = AttentionTransfer(student_grids)(make_output(tokens), signal)
    assert list(parts) == ["at_audio", "at_visual", "at_fusion"]
    sound, picture = activity(signal.tokens["fusion"]).split([128, 32], dim=1)
    sound = sound.view(3, 4, 2, 8, 2).mean(dim=(2, 4)).flatten(1)
    picture = picture.view(3, 4, 4, 2).mean(dim=3).flatten(1)
    teacher = torch.cat([sound, picture], dim=1)
    student = activity(tokens["fusion"]).squeeze(2)
    teacher, student = (x / x.norm(dim=1, keepdim=True) for x in (teacher, student))
    torch.testing.assert_close(parts["at_fusion"], 1000 * (student - teacher).square().mean())


def test_neither_scale_nor_width_nor_sign_of_channels_matters(student_grids, make_tokens, make_signal, make_output):
    tokens, signal = make_tokens(), make_signal(seed=1)
    objective = AttentionTransfer(student_grids)
    expected = objective(make_output(tokens), signal)
    doubled = {branch: -3 * torch.cat([value, value.flip(2)], dim=2) for branch, value in tokens.items()}
    torch.testing.assert_close(objective(make_output(doubled), signal), expected)


def test_same_permutation_of_both_sides_and_order_of_clips_do_not_matter(make_output):
    student, teacher = formula_tokens("student"), formula_tokens("teacher")
    grids = {"audio": (GRID,)}
    expected = audio_loss(make_output, student, teacher, grids)
    order = torch.randperm(student.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(audio_loss(make_output, student[:, order], teacher[:, order], grids), expected)
    torch.testing.assert_close(audio_loss(make_output, student.flip(0), teacher.flip(0), grids), expected)
    assert not torch.isclose(audio_loss(make_output, student[:, order], teacher, grids), expected)


def test_gradient_equals_finite_differences(make_output):
    student, teacher = formula_tokens("student")[:2].requires_grad_(), formula_tokens("teacher")[:2]
    grids = {"audio": (GRID,)}
    assert torch.autograd.gradcheck(lambda x: audio_loss(make_output, x, teacher, grids), student)


def test_dead_tokens_have_a_finite_gradient(make_output):
    student = torch.zeros(1, 2, 3, requires_grad=True)
    audio_loss(make_output, student, torch.ones(1, 2, 3)).backward()
    assert torch.equal(student.grad, torch.zeros(1, 2, 3))


def test_single_token_raises(student_grids):
    with pytest.raises(ValueError, match="single token of audio is always 1"):
        AttentionTransfer(student_grids | {"audio": ((1, 1),)})


def test_reports_itself(student_grids):
    objective = AttentionTransfer(student_grids, branches=["visual"])
    assert objective.to_dict() == {"name": "at", "weight": 1000.0, "branches": ["visual"]}
    assert "zagoruyko2017paying" in objective.citation
    assert objective.requires_tokens and not objective.requires_entropies
    assert not list(objective.parameters())
