import json
from pathlib import Path

import pytest
import torch
from token_formulas import GRID, formula_tokens

from hf_emktd.distillation import KernelizedTokenDistillation, ManifoldDistillation, TeacherSignal, TokenKernel

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "baselines.json").read_text())["manifold"]
GRIDS = {"audio": (GRID,)}
TERMS = ("intra", "inter", "random")


def only(term):
    return {f"{name}_weight": float(name == term) for name in TERMS}


def audio_signal(tokens, grids=GRIDS):
    return TeacherSignal(logits=torch.zeros(len(tokens), 2), tokens={"audio": tokens}, grids=grids)


def audio_loss(make_output, student, teacher, grids=GRIDS, seed=0, **options):
    torch.manual_seed(seed)
    objective = ManifoldDistillation(grids, branches=("audio",), **options)
    return objective(make_output({"audio": student}), audio_signal(teacher, grids))["manifold_audio"]


@pytest.fixture
def pair():
    return formula_tokens("student"), formula_tokens("teacher")


@pytest.mark.parametrize("term", TERMS)
def test_each_term_equals_the_official_one(term, pair, make_output):
    """192 random tokens are all of the 60, in which the official number has no chance either."""
    assert audio_loss(make_output, *pair, **only(term)).item() == pytest.approx(GOLDEN[term], rel=1e-9)


def test_part_is_the_weighted_sum(pair, make_output):
    expected = 4 * GOLDEN["intra"] + 0.1 * GOLDEN["inter"] + 0.2 * GOLDEN["random"]
    assert audio_loss(make_output, *pair, weight=2.0).item() == pytest.approx(2 * expected, rel=1e-9)


def test_terms_equal_hand_values(make_output):
    """
    Two clips of two tokens. Teacher: e1, e2 | e1, e1; student: all tokens equal. Inside clips two of eight cosines are
    off by 1, between clips two of eight, of the 4 x 4 of all tokens the six that pair the e2 with another.
    """
    e1, e2 = torch.eye(2)
    teacher = torch.stack([torch.stack([e1, e2]), torch.stack([e1, e1])])
    student, grids = torch.ones(2, 2, 3), {"audio": ((1, 2),)}
    values = {term: audio_loss(make_output, student, teacher, grids, **only(term)).item() for term in TERMS}
    assert values == pytest.approx({"intra": 2 / 8, "inter": 2 / 8, "random": 6 / 16})


def test_random_tokens_repeat_with_the_seed_and_are_the_same_of_both_sides(pair, make_output):
    options = only("random") | {"random_tokens": 7}
    first, again, other = (audio_loss(make_output, *pair, seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    drawn = torch.randperm(60)[:7]
    student, teacher = (torch.nn.functional.normalize(x.flatten(0, 1)[drawn], dim=1) for x in pair)
    torch.testing.assert_close(first, (student @ student.T - teacher @ teacher.T).square().mean())


def test_intra_term_is_twice_ktd_with_the_linear_kernel(pair, make_output):
    """As long as no cosine is off by more than the Huber threshold."""
    student, teacher = pair[0].abs(), pair[1].abs()
    ktd = KernelizedTokenDistillation(GRIDS, kernel=TokenKernel("linear"), scale="none", branches=("audio",))
    part = ktd(make_output({"audio": student}), audio_signal(teacher))["ktd_audio"]
    torch.testing.assert_close(audio_loss(make_output, student, teacher, **only("intra")), 2 * part)


def test_perfect_student_has_loss_0(pair, make_output):
    rotation, _ = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))
    lengths = torch.rand(5, 12, 1, dtype=torch.float64) + 0.5
    assert audio_loss(make_output, lengths * pair[1] @ rotation, pair[1]).item() < 1e-20


def test_same_permutation_of_clips_or_tokens_of_both_sides_does_not_matter(pair, make_output):
    student, teacher = pair
    expected = audio_loss(make_output, student, teacher)
    torch.testing.assert_close(audio_loss(make_output, student.flip(0), teacher.flip(0)), expected)
    torch.testing.assert_close(audio_loss(make_output, student.flip(1), teacher.flip(1)), expected)
    for term in TERMS:
        expected = audio_loss(make_output, student, teacher, **only(term))
        flipped = audio_loss(make_output, student.flip(0, 1), teacher, **only(term))
        assert not torch.isclose(flipped, expected)


def test_larger_teacher_is_pooled(student_grids, make_tokens, make_signal, make_output):
    grids = {"audio": ((8, 16),), "visual": ((4, 8),), "fusion": ((8, 16), (4, 8))}
    tokens, signal = make_tokens(), make_signal(grids, seed=1)
    parts = ManifoldDistillation(student_grids)(make_output(tokens), signal)
    assert list(parts) == ["manifold_audio", "manifold_visual", "manifold_fusion"]
    pooled = signal.tokens["visual"].view(3, 4, 4, 2, 6).mean(dim=3).flatten(1, 2)
    expected = audio_loss(make_output, tokens["visual"], pooled, {"audio": ((4, 4),)})
    torch.testing.assert_close(parts["manifold_visual"], expected)


def test_gradient_equals_finite_differences(pair, make_output):
    student, teacher = pair[0][:2].requires_grad_(), pair[1][:2]
    assert torch.autograd.gradcheck(lambda x: audio_loss(make_output, x, teacher, random_tokens=9), student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inter_weight": -0.1}, "weights must not be negative, and one positive, got .*'inter_weight': -0.1"),
        (dict.fromkeys([f"{term}_weight" for term in TERMS], 0.0), "weights must not be negative, and one positive"),
        ({"random_tokens": 1}, "random_tokens must be at least 2, got 1"),
        ({"weight": 0.0}, "weight must be positive"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        ManifoldDistillation(GRIDS, branches=("audio",), **options)


def test_wrong_count_of_student_tokens_raises(pair, make_output):
    with pytest.raises(ValueError, match=r"the student returned 11 audio tokens, its grids \(\(3, 4\),\) have 12"):
        audio_loss(make_output, pair[0][:, 1:], pair[1])


def test_reports_itself(student_grids):
    assert ManifoldDistillation(student_grids).to_dict() == {
        "name": "manifold",
        "weight": 1.0,
        "branches": ["audio", "visual", "fusion"],
        "intra_weight": 4.0,
        "inter_weight": 0.1,
        "random_weight": 0.2,
        "random_tokens": 192,
    }
    assert "hao2022manifold" in ManifoldDistillation.citation
