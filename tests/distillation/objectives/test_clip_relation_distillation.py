import json

import pytest
import torch
from token_formulas import GRID, formula_tokens

from hf_emktd.distillation import KERNELS, ClipRelationDistillation, TeacherSignal, TokenKernel
from hf_emktd.distillation.objectives.clip_relation_distillation import off_diagonal

GRIDS = {"audio": (GRID,)}
LINEAR = TokenKernel("linear")


def clip_ktd(grids=GRIDS, **options):
    return ClipRelationDistillation(grids, **{"branches": ("audio",), "scale": "none"} | options)


def audio_signal(tokens, grids=GRIDS):
    return TeacherSignal(logits=torch.zeros(len(tokens), 2), tokens={"audio": tokens}, grids=grids)


def audio_loss(make_output, student, teacher, grids=GRIDS, **options):
    objective = clip_ktd(grids, **options)
    return objective(make_output({"audio": student}), audio_signal(teacher, grids))["clip_ktd_audio"]


@pytest.fixture
def pair():
    return formula_tokens("student"), formula_tokens("teacher")


def test_part_equals_hand_value(make_output):
    """
    Means of the teacher's clips (1, 0), (0, 1), (1, 1) / sqrt 2, all of the student's equal: of three cosines 0, r, r
    with r = 1 / sqrt 2 the student has 1, and Huber of less than 1 is half the square.
    """
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]])
    student = torch.ones(3, 2, 5)
    grids, r = {"audio": ((1, 2),)}, 0.5**0.5
    loss = audio_loss(make_output, student, teacher, grids, kernel=LINEAR, weight=3.0)
    assert loss.item() == pytest.approx(3 * (1 + 2 * (1 - r) ** 2) / 2 / 3, rel=1e-5)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("pooling", ["mean", "flatten"])
def test_part_is_the_mean_over_pairs_of_different_clips(name, pooling, pair, make_output):
    kernel = TokenKernel(name)
    pooled = [tokens.mean(dim=1) if pooling == "mean" else tokens.reshape(5, -1) for tokens in pair]
    cosines = [torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2) for x in pooled]
    student, teacher = (kernel.of_cosines(values) for values in cosines)
    pairs = [(student[i, j] - teacher[i, j]).abs() for i in range(5) for j in range(5) if i != j]
    expected = sum(d**2 / 2 if d < 0.1 else 0.1 * (d - 0.05) for d in pairs) / 20
    loss = audio_loss(make_output, *pair, kernel=kernel, pooling=pooling, delta=0.1)
    torch.testing.assert_close(loss, expected)


def test_off_diagonal_leaves_out_the_diagonal():
    assert off_diagonal(torch.arange(9).view(3, 3)).tolist() == [1, 2, 3, 5, 6, 7]
    assert off_diagonal(torch.ones(1, 1)).shape == (0,)


def test_spread_makes_a_constant_student_cost_1(make_output, pair):
    """A student whose cosines all are the teacher's mean."""
    _, teacher = pair
    objective = clip_ktd(kernel=LINEAR, scale="teacher_spread")
    assert objective.requires_calibration
    objective.calibrate([audio_signal(teacher)])
    unit = teacher.mean(dim=1)
    unit = unit / unit.norm(dim=1, keepdim=True)
    cosine = off_diagonal(unit @ unit.T).mean()
    constant = (torch.eye(5) * (1 - cosine).sqrt()).double()
    constant = torch.cat([constant, cosine.sqrt().expand(5, 1)], dim=1)
    student = constant.unsqueeze(1).expand(5, 12, 6)
    part = objective(make_output({"audio": student}), audio_signal(teacher))["clip_ktd_audio"]
    assert part.item() == pytest.approx(1, rel=1e-6)


def test_spread_is_that_of_the_pairs_of_all_signals(pair):
    signals = [audio_signal(pair[1][:3]), audio_signal(pair[1][3:]), audio_signal(pair[1][:1])]
    objective = clip_ktd(kernel=LINEAR, scale="teacher_spread")
    objective.calibrate(signals)
    cosines = []
    for clips in (pair[1][:3].mean(dim=1), pair[1][3:].mean(dim=1)):
        unit = clips / clips.norm(dim=1, keepdim=True)
        cosines.append(off_diagonal(unit @ unit.T))
    expected = torch.cat(cosines).var(correction=0) / 2
    assert objective.to_dict()["teacher_spread"]["audio"] == pytest.approx(expected.item(), rel=1e-6)


def test_loss_does_not_depend_on_the_number_of_equal_clips(make_output):
    """Student clips all equal, teacher clips all orthogonal: every pair is off by 1, however many there are."""
    for clips in (2, 6):
        teacher = torch.eye(6)[:clips].unsqueeze(1).expand(clips, 12, 6)
        loss = audio_loss(make_output, torch.ones(clips, 12, 4), teacher, kernel=LINEAR)
        assert loss.item() == pytest.approx(0.5)


def test_perfect_student_has_loss_0(pair, make_output):
    rotation, _ = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))
    rotated = 3 * pair[1] @ rotation
    for pooling in ("mean", "flatten"):
        assert audio_loss(make_output, rotated, pair[1], pooling=pooling).item() < 1e-20


def test_order_of_clips_and_length_of_their_tokens_do_not_matter(pair, make_output):
    student, teacher = pair
    expected = audio_loss(make_output, student, teacher)
    torch.testing.assert_close(audio_loss(make_output, student.flip(0), teacher.flip(0)), expected)
    lengths = torch.arange(1, 6).view(5, 1, 1)
    torch.testing.assert_close(audio_loss(make_output, student * lengths, teacher), expected)
    assert not torch.isclose(audio_loss(make_output, student.flip(0), teacher), expected)


def test_order_of_tokens_matters_only_when_they_are_flattened(pair, make_output):
    student, teacher = pair
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    # another order in each clip
    shuffled = torch.stack([clip[order.roll(shift)] for shift, clip in enumerate(student)])
    mean, flat = (audio_loss(make_output, student, teacher, pooling=pooling) for pooling in ("mean", "flatten"))
    torch.testing.assert_close(audio_loss(make_output, shuffled, teacher), mean)
    assert not torch.isclose(audio_loss(make_output, shuffled, teacher, pooling="flatten"), flat)


@pytest.mark.parametrize("pooling", ["mean", "flatten"])
def test_larger_teacher_is_pooled(pooling, student_grids, make_tokens, make_signal, make_output):
    grids = {"audio": ((8, 16),), "visual": ((4, 8),), "fusion": ((8, 16), (4, 8))}
    tokens, signal = make_tokens(), make_signal(grids, seed=1)
    objective = ClipRelationDistillation(student_grids, scale="none", pooling=pooling)
    parts = objective(make_output(tokens), signal)
    assert list(parts) == ["clip_ktd_audio", "clip_ktd_visual", "clip_ktd_fusion"]
    pooled = signal.tokens["visual"].view(3, 4, 4, 2, 6).mean(dim=3).flatten(1, 2)
    expected = audio_loss(make_output, tokens["visual"], pooled, {"audio": ((4, 4),)}, pooling=pooling)
    torch.testing.assert_close(parts["clip_ktd_visual"], expected)


def test_a_student_without_sound_is_compared_with_the_pictures_mean(make_tokens, make_signal, make_output):
    signal, grids = make_signal(seed=1), {"visual": ((4, 4),), "fusion": ((4, 4),)}
    student = {"audio": None, "visual": None, "fusion": make_tokens()["visual"]}
    objective = ClipRelationDistillation(grids, scale="none", branches=("fusion",))
    parts = objective(make_output(student), signal)
    expected = audio_loss(make_output, student["fusion"], signal.tokens["fusion"][:, -16:], {"audio": ((4, 4),)})
    torch.testing.assert_close(parts["clip_ktd_fusion"], expected)


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_equals_finite_differences(name, pair, make_output):
    student, teacher = pair[0][:3].requires_grad_(), pair[1][:3]
    objective = clip_ktd(kernel=TokenKernel(name), scale="teacher_spread")
    objective.calibrate([audio_signal(teacher)])

    def part(tokens):
        return objective(make_output({"audio": tokens}), audio_signal(teacher))["clip_ktd_audio"]

    assert torch.autograd.gradcheck(part, student)


@pytest.mark.parametrize("pooling", ["mean", "flatten"])
def test_a_float64_student_learns_from_a_float32_teacher(pair, make_output, pooling):
    gradients = []
    for teacher in (pair[1].float(), pair[1].float().double()):
        student = pair[0].clone().requires_grad_()
        loss = audio_loss(make_output, student, teacher, pooling=pooling)
        loss.backward()
        assert loss.dtype == torch.float64
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_single_clip_has_loss_0(pair, make_output):
    student = pair[0][:1].requires_grad_()
    loss = audio_loss(make_output, student, pair[1][:1])
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_calibration_needs_pairs(pair):
    with pytest.raises(ValueError, match="signals of one clip each; relations between clips need batches of two"):
        clip_ktd(scale="teacher_spread").calibrate([audio_signal(pair[1][:1])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'; known are mean, flatten"),
        ({"delta": 0.0}, "delta must be positive and finite, got 0.0"),
        ({"scale": "auto"}, "unknown scale 'auto'"),
        ({"kernel": {"name": "cosine"}}, "unknown name 'cosine'; known are linear, polynomial, rbf"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        clip_ktd(**options)


def test_reports_itself():
    objective = clip_ktd(kernel={"name": "rbf", "gamma": 2.0}, weight=5.0, pooling="flatten")
    report = objective.to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report == {
        "name": "clip_ktd",
        "weight": 5.0,
        "branches": ["audio"],
        "kernel": {"name": "rbf", "gamma": 2.0},
        "delta": 1.0,
        "scale": "none",
        "teacher_spread": {"audio": None},
        "pooling": "flatten",
    }
    assert not objective.requires_entropies
