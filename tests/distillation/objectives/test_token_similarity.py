import math

import pytest
import torch
from token_formulas import GRID, formula_tokens

from hf_emktd.distillation import MaskedTokenSimilarity, TeacherSignal

GRIDS = {"audio": (GRID,)}


def audio_loss(make_output, student, teacher, grids=GRIDS, seed=0, **options):
    torch.manual_seed(seed)
    signal = TeacherSignal(logits=torch.zeros(len(teacher), 2), tokens={"audio": teacher}, grids=grids)
    objective = MaskedTokenSimilarity(grids, branches=("audio",), **options)
    return objective(make_output({"audio": student}), signal)["mtst_audio"]


def test_part_equals_hand_value(make_output):
    """
    Three tokens, none masked, temperature 1. Teacher: two equal tokens and an orthogonal one, so the vectors of the
    equal ones are softmax(1, 0) and that of the third (1/2, 1/2). Student: all equal, every vector (1/2, 1/2).
    """
    teacher = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])
    student = torch.ones(1, 3, 4)
    p = math.e / (math.e + 1)
    expected = 2 / 3 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    loss = audio_loss(make_output, student, teacher, {"audio": ((1, 3),)}, mask_ratio=0.0, temperature=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_masked_tokens_are_in_no_vector(make_output):
    """By hand, clip by clip, with the masks that the seed draws."""
    student, teacher = formula_tokens("student"), formula_tokens("teacher")
    loss = audio_loss(make_output, student, teacher, mask_ratio=0.25, temperature=0.2, seed=3)
    torch.manual_seed(3)
    unmasked = torch.rand(5, 12).argsort(dim=1) < 9
    divergences = []
    for clip in range(5):
        for i in range(12):
            others = [j for j in range(12) if unmasked[clip, j] and j != i]
            cosines = [
                torch.cosine_similarity(tokens[clip, i].unsqueeze(0), tokens[clip, others])
                for tokens in (teacher, student)
            ]
            p, q = ((values / 0.2).softmax(dim=0) for values in cosines)
            divergences.append((p * (p / q).log()).sum())
    torch.testing.assert_close(loss, torch.stack(divergences).mean())


def test_masks_repeat_with_the_seed_and_differ_between_steps_and_clips(make_output):
    student, teacher = formula_tokens("student"), formula_tokens("teacher")
    first, again, other = (audio_loss(make_output, student, teacher, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    masks = MaskedTokenSimilarity(GRIDS, branches=("audio",))._compared_pairs(torch.zeros(5, 12, 2))
    unmasked = masks.any(dim=1)
    assert unmasked.sum(dim=1).tolist() == [6] * 5
    assert len({tuple(row) for row in unmasked.tolist()}) > 1


def test_perfect_student_has_loss_0(make_output):
    teacher = formula_tokens("teacher")
    rotation, _ = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))
    assert abs(audio_loss(make_output, 5 * teacher @ rotation, teacher).item()) < 1e-12
    assert audio_loss(make_output, formula_tokens("student"), teacher).item() > 0.1


def test_common_offset_of_all_similarities_is_not_seen(make_output):
    """What EM-KTD holds against the softmax: a common direction in all tokens shifts cosines and nothing else."""
    orthonormal = torch.eye(4).unsqueeze(0)
    offset = torch.cat([orthonormal, torch.ones(1, 4, 1)], dim=2)
    grids = {"audio": ((1, 4),)}
    loss = audio_loss(make_output, offset, orthonormal, grids, mask_ratio=0.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_larger_teacher_is_pooled(student_grids, make_tokens, make_signal, make_output):
    grids = {"audio": ((8, 16),), "visual": ((4, 8),), "fusion": ((8, 16), (4, 8))}
    tokens, signal = make_tokens(), make_signal(grids, seed=1)
    parts = MaskedTokenSimilarity(student_grids)(make_output(tokens), signal)
    assert list(parts) == ["mtst_audio", "mtst_visual", "mtst_fusion"]
    pooled = signal.tokens["visual"].view(3, 4, 4, 2, 6).mean(dim=3).flatten(1, 2)
    options = {"mask_ratio": 0.0, "branches": ("visual",)}
    signal.tokens = {"visual": signal.tokens["visual"]}
    loss = MaskedTokenSimilarity(student_grids, **options)(make_output(tokens), signal)["mtst_visual"]
    expected = audio_loss(make_output, tokens["visual"], pooled, {"audio": ((4, 4),)}, mask_ratio=0.0)
    torch.testing.assert_close(loss, expected)


def test_gradient_equals_finite_differences(make_output):
    student, teacher = formula_tokens("student")[:2].requires_grad_(), formula_tokens("teacher")[:2]
    assert torch.autograd.gradcheck(lambda x: audio_loss(make_output, x, teacher), student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"mask_ratio": 1.0}, "mask_ratio must be at least 0 and below 1, got 1.0"),
        ({"mask_ratio": -0.1}, "mask_ratio must be at least 0"),
        ({"mask_ratio": 0.9}, "leaves 2 of the student's 12 audio tokens unmasked, at least 3 are needed. Lower"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedTokenSimilarity(GRIDS, branches=("audio",), **options)


def test_reports_itself(student_grids):
    objective = MaskedTokenSimilarity(student_grids)
    assert objective.to_dict() == {
        "name": "mtst",
        "weight": 1.0,
        "branches": ["audio", "visual", "fusion"],
        "temperature": 0.1,
        "mask_ratio": 0.5,
    }
    assert "choi2023masked" in objective.citation
