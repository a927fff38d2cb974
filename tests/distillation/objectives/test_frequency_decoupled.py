import json
import math
from pathlib import Path

import pytest
import torch
from frequency_formulas import CLASSES, LABELS, WIDTH, formula_classifier, formula_vectors
from torch.nn import functional as F

from hf_emktd.distillation import FrequencyDecoupledDistillation, TeacherSignal
from hf_emktd.distillation.frequencies import signed_log, split_frequencies
from hf_emktd.distillation.kernels import unit_tokens
from hf_emktd.distillation.objectives.frequency_decoupled import default_pairs

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "frequency_decoupled.json").read_text())
WIDTHS = {"audio": 8, "visual": 8, "fusion": 8}
SOUND, PICTURE = {"audio": 8, "fusion": 8}, {"visual": 8, "fusion": 8}
IDS = torch.tensor([0, 2, 1])


def signal_of(tokens):
    return TeacherSignal(logits=torch.zeros(3, 4), tokens=tokens, grids={})


def random_tokens(branches, width=8, seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 5, width, dtype=torch.float64, generator=generator) for name in branches}


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return FrequencyDecoupledDistillation(WIDTHS, WIDTHS, num_labels=4).double()


def official_tokens(role):
    """Two tokens a clip whose mean is the formula's vector, by branch."""
    vectors = {branch: formula_vectors(role, branch[0]) for branch in ("audio", "visual")}
    return {name: torch.stack([value - 1, value + 1], dim=1).requires_grad_() for name, value in vectors.items()}


def test_losses_and_gradients_equal_the_official_ones(make_output):
    objective = FrequencyDecoupledDistillation({"audio": WIDTH, "visual": WIDTH}, {"audio": WIDTH, "visual": WIDTH}, 6)
    for modality, pair in (("a", "audio_from_visual"), ("v", "visual_from_audio")):
        for kind, classifiers in (("align", objective.heads[pair].shared), ("task", objective.heads[pair].own)):
            for band, classifier in zip(("low", "high"), classifiers, strict=True):
                classifier[1].load_state_dict(formula_classifier(f"cls_{kind}_{modality}_{band}"))
    students = official_tokens("student")
    parts = objective(make_output(students), signal_of(official_tokens("teacher")), torch.tensor(LABELS))
    for pair, loss in GOLDEN["loss"].items():
        own_head = math.log(CLASSES)  # of the official main head, whose logits were zero
        assert parts[f"fd_cmkd_{pair}"].item() == pytest.approx(loss - own_head, rel=1e-6)
    sum(parts.values()).backward()
    for branch, tokens in students.items():
        gradient = tokens.grad.sum(dim=1)[:2, ::64]
        torch.testing.assert_close(gradient, torch.tensor(GOLDEN["gradient"][branch[0]]), atol=1e-7, rtol=1e-4)


def test_every_term_by_its_definition(objective, make_output):
    student, teacher = random_tokens(["audio"]), random_tokens(["visual"], seed=1)
    heads = objective.heads["audio_from_visual"]
    ours = split_frequencies(student["audio"].mean(dim=1))
    theirs = split_frequencies(teacher["visual"].mean(dim=1))
    expected = {
        "low": (unit_tokens(ours[0]) - unit_tokens(theirs[0])).square().mean(),
        "high": (signed_log(unit_tokens(ours[1])) - signed_log(unit_tokens(theirs[1]))).square().mean(),
        "align": sum(F.cross_entropy(heads.shared[i](x[i]), IDS) for x in (ours, theirs) for i in (0, 1)),
        "head": sum(F.cross_entropy(heads.own[i](ours[i]), IDS) for i in (0, 1)),
    }
    for name, value in expected.items():
        objective.term_weights = dict.fromkeys(expected, 0.0) | {name: 2.0}
        parts = objective(make_output(student), signal_of(teacher), IDS)
        assert list(parts) == ["fd_cmkd_audio_from_visual"]
        torch.testing.assert_close(parts["fd_cmkd_audio_from_visual"], 2 * value)


def test_a_student_with_the_teachers_vectors_has_no_distance_but_classifiers(make_output):
    options = {"align_weight": 0.0, "head_weight": 0.0}
    objective = FrequencyDecoupledDistillation(WIDTHS, WIDTHS, 4, **options).double()
    tokens = random_tokens(["audio", "visual"])
    swapped = {"audio": 3 * tokens["visual"] + 1, "visual": tokens["audio"]}  # neither length nor mean matters
    parts = objective(make_output(swapped), signal_of(tokens), IDS)
    assert max(part.item() for part in parts.values()) < 1e-12
    assert sum(objective(make_output(tokens), signal_of(tokens), IDS).values()).item() > 0.01


def test_neither_the_order_of_tokens_nor_of_clips_matters(objective, make_output):
    student, teacher = random_tokens(WIDTHS), random_tokens(WIDTHS, seed=1)
    expected = objective(make_output(student), signal_of(teacher), IDS)
    order, clips = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([2, 0, 1])
    shuffled = {name: tokens[clips][:, order] for name, tokens in student.items()}
    others = {name: tokens[clips] for name, tokens in teacher.items()}
    parts = objective(make_output(shuffled), signal_of(others), IDS[clips])
    for name, part in parts.items():
        torch.testing.assert_close(part, expected[name])


@pytest.mark.parametrize("student_width", [8, 4])
def test_gradient_equals_finite_differences(student_width, make_output):
    torch.manual_seed(1)
    widths = {"audio": student_width, "visual": student_width, "fusion": student_width}
    objective = FrequencyDecoupledDistillation(widths, SOUND, 4).double()
    tokens, teacher = random_tokens(["visual"], student_width)["visual"], random_tokens(SOUND, seed=1)
    labels = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1], [0, 0.2, 0.8, 0]])

    def loss(tokens):
        return sum(objective(make_output({"visual": tokens}), signal_of(teacher), labels).values())

    assert torch.autograd.gradcheck(loss, tokens.requires_grad_())


def test_everything_learns_but_the_teacher(make_output):
    objective = FrequencyDecoupledDistillation({"audio": 4, "visual": 4}, WIDTHS, 4)
    student = {name: value.float().requires_grad_() for name, value in random_tokens(["audio", "visual"], 4).items()}
    teacher = {name: value.float().requires_grad_() for name, value in random_tokens(WIDTHS).items()}
    sum(objective(make_output(student), signal_of(teacher), IDS).values()).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in objective.parameters())
    assert all(tokens.grad.abs().max() > 0 for tokens in student.values())
    assert all(tokens.grad is None for tokens in teacher.values())


def test_equal_widths_need_no_projection():
    equal, narrow = (FrequencyDecoupledDistillation(w, WIDTHS, 4) for w in (WIDTHS, dict.fromkeys(WIDTHS, 4)))
    assert len(list(equal.parameters())) == 2 * 4 * 2
    assert [name for name, _ in narrow.named_parameters() if "projection" in name] == [
        f"heads.{pair}.projection.weight" for pair in ("audio_from_visual", "visual_from_audio")
    ]


def test_loss_is_float32_under_autocast(make_output):
    torch.manual_seed(0)
    objective = FrequencyDecoupledDistillation(WIDTHS, WIDTHS, 4)
    student, teacher = ({n: t.bfloat16() for n, t in random_tokens(WIDTHS, seed=s).items()} for s in (0, 1))
    expected = objective(make_output(student), signal_of(teacher), IDS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = objective(make_output(student), signal_of(teacher), IDS)
    assert all(part.dtype == torch.float32 and torch.equal(part, expected[name]) for name, part in parts.items())


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (WIDTHS, WIDTHS, [("audio", "visual"), ("visual", "audio")]),
        (SOUND, WIDTHS, [("audio", "visual"), ("fusion", "fusion")]),
        (PICTURE, WIDTHS, [("visual", "audio"), ("fusion", "fusion")]),
        (SOUND, PICTURE, [("audio", "visual"), ("fusion", "fusion")]),
        (WIDTHS, SOUND, [("visual", "audio")]),
        (SOUND, SOUND, []),
    ],
)
def test_default_pairs(student, teacher, expected):
    assert default_pairs(student, teacher) == expected


def test_pairs_may_be_named(make_output):
    objective = FrequencyDecoupledDistillation(SOUND, WIDTHS, 4, pairs=[["fusion", "visual"], ["fusion", "audio"]])
    student, teacher = ({n: t.float() for n, t in random_tokens(w).items()} for w in (SOUND, WIDTHS))
    parts = objective(make_output(student), signal_of(teacher), IDS)
    assert list(parts) == ["fd_cmkd_fusion_from_visual", "fd_cmkd_fusion_from_audio"]
    assert objective.to_dict()["pairs"] == [["fusion", "visual"], ["fusion", "audio"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight must be positive and finite, got 0.0"),
        ({"low_weight": -1.0}, "low_weight must not be negative, got -1.0"),
        ({"cut": 0.1}, "cut must leave some of the 4 frequencies of 8 features on either side, got 0.1"),
        ({"pairs": []}, "needs pairs of a student branch and a teacher branch"),
        ({"pairs": ["audio"]}, "needs pairs of a student branch and a teacher branch"),
        ({"pairs": [["visual", "audio"]]}, "student_widths needs the widths of visual"),
        ({"pairs": [["audio", "sound"]]}, "teacher_widths needs the widths of sound"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        FrequencyDecoupledDistillation(SOUND, WIDTHS, 4, **options)


def test_models_of_one_and_the_same_modality_have_no_default_pair():
    with pytest.raises(ValueError, match=r"student with audio, fusion and a teacher with audio, fusion\..*name pairs"):
        FrequencyDecoupledDistillation(SOUND, SOUND, 4)


def test_missing_labels_or_tokens_raise(objective, make_output):
    tokens = random_tokens(WIDTHS)
    with pytest.raises(ValueError, match="needs the labels of the clips"):
        objective(make_output(tokens), signal_of(tokens))
    with pytest.raises(ValueError, match="the student returned no tokens of audio, visual; call it with"):
        objective(make_output({}), signal_of(tokens), IDS)
    with pytest.raises(ValueError, match="the teacher returned no visual tokens, only those of "):
        objective(make_output(tokens), signal_of({"audio": tokens["audio"]}), IDS)


def test_is_built_for_a_pair_of_models(make_model):
    student, teacher = make_model(modalities=["audio"]).config, make_model(hidden_size=32).config
    objective = FrequencyDecoupledDistillation.for_models(student, teacher, weight=2.0)
    assert objective.to_dict() == {
        "name": "fd_cmkd",
        "weight": 2.0,
        "low_weight": 1.0,
        "high_weight": 1.0,
        "align_weight": 1.0,
        "head_weight": 1.0,
        "cut": 0.5,
        "pairs": [["audio", "visual"], ["fusion", "fusion"]],
    }
    assert objective.heads["fusion_from_fusion"].projection.weight.shape == (32, 16)
    assert objective.heads["audio_from_visual"].own[0][1].weight.shape == (5, 32)
    assert objective.requires_tokens and not objective.requires_entropies
    assert "Feature Disentanglement" in objective.citation
