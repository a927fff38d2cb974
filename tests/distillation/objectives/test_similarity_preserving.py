import json
from pathlib import Path

import pytest
import torch
from token_formulas import GRID, formula_tokens

from hf_emktd.distillation import SimilarityPreservingDistillation, TeacherSignal

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "baselines.json").read_text())


def audio_loss(make_output, student, teacher, **options):
    signal = TeacherSignal(logits=torch.zeros(len(teacher), 2), tokens={"audio": teacher}, grids={"audio": (GRID,)})
    objective = SimilarityPreservingDistillation(branches=("audio",), **options)
    return objective(make_output({"audio": student}), signal)["spkd_audio"]


def test_part_equals_the_official_loss(make_output):
    loss = audio_loss(make_output, formula_tokens("student"), formula_tokens("teacher"))
    assert loss.item() == pytest.approx(3000 * GOLDEN["spkd"], rel=1e-9)


def test_part_equals_hand_value(make_output):
    """Products [[25, 7], [7, 25]] of the teacher, rows of length n = sqrt 674, and 4 times the identity."""
    teacher = torch.tensor([[[3.0, 4.0]], [[-3.0, 4.0]]])
    student = torch.tensor([[[2.0], [0.0]], [[0.0], [2.0]]])
    length = (25**2 + 7**2) ** 0.5
    expected = 2 * ((1 - 25 / length) ** 2 + (7 / length) ** 2) / 4
    assert audio_loss(make_output, student, teacher, weight=1.0).item() == pytest.approx(expected, rel=1e-5)


def test_counts_and_widths_of_tokens_may_differ(make_output):
    """Only products between clips are compared: a student whose products are the teacher's has loss 0."""
    teacher = formula_tokens("teacher")
    rotation, _ = torch.linalg.qr(torch.randn(108, 108, dtype=torch.float64))
    student = (teacher.flatten(1) @ rotation).view(5, 27, 4)
    assert audio_loss(make_output, student, teacher).item() < 1e-20
    assert audio_loss(make_output, 7 * student, teacher).item() < 1e-20
    assert audio_loss(make_output, formula_tokens("student"), teacher).item() > 1


def test_order_of_clips_does_not_matter_unless_the_sides_differ(make_output):
    student, teacher = formula_tokens("student"), formula_tokens("teacher")
    expected = audio_loss(make_output, student, teacher)
    torch.testing.assert_close(audio_loss(make_output, student.flip(0), teacher.flip(0)), expected)
    assert not torch.isclose(audio_loss(make_output, student.flip(0), teacher), expected)


def test_gradient_equals_finite_differences(make_output):
    student, teacher = formula_tokens("student")[:3].requires_grad_(), formula_tokens("teacher")[:3]
    assert torch.autograd.gradcheck(lambda x: audio_loss(make_output, x, teacher), student)


def test_single_clip_has_loss_0(make_output):
    student, teacher = formula_tokens("student")[:1].requires_grad_(), formula_tokens("teacher")[:1]
    loss = audio_loss(make_output, student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert student.grad.abs().max() < 1e-12


def test_reports_itself():
    objective = SimilarityPreservingDistillation()
    assert objective.to_dict() == {"name": "spkd", "weight": 3000.0, "branches": ["audio", "visual", "fusion"]}
    assert "tung2019similarity" in objective.citation
    assert objective.requires_tokens and not objective.requires_calibration
