import json

import pytest
import torch

from hf_emktd.distillation import BRANCHES, KERNELS, KernelizedTokenDistillation, TeacherSignal, TokenKernel
from hf_emktd.distillation.token_distillation import (
    gram_spread,
    pool_branch,
    sliding_windows,
    token_distillation_loss,
)

PAIR = {"audio": ((1, 2),)}
ORTHOGONAL = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
EQUAL = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])


def grids_of(audio, visual):
    return {"audio": (audio,), "visual": (visual,), "fusion": (audio, visual)}


def ktd(grids, **options):
    return KernelizedTokenDistillation(grids, **options)


def audio_signal(tokens):
    return TeacherSignal(logits=torch.zeros(len(tokens), 2), tokens={"audio": tokens}, grids=PAIR)


def test_plain_parts_are_the_weighted_batch_means(student_grids, make_tokens, make_signal, make_output):
    objective = ktd(student_grids, scale="none", weight=333.0)
    tokens, signal = make_tokens(seed=1), make_signal(width=9)
    parts = objective(make_output(tokens), signal)
    assert list(parts) == ["ktd_audio", "ktd_visual", "ktd_fusion"]
    for branch in BRANCHES:
        loss = token_distillation_loss(tokens[branch], signal.tokens[branch], TokenKernel())
        torch.testing.assert_close(parts[f"ktd_{branch}"], 333 * loss.mean())


def test_scaled_part_equals_hand_value(make_output):
    """Teacher K = I (spread 0.125), student K = 1: two of four entries off by 1, Huber 0.25; 0.25 / 0.125 = 2."""
    objective = ktd(PAIR, kernel=TokenKernel("linear"), weight=3.0, branches=("audio",))
    objective.calibrate([audio_signal(ORTHOGONAL)])
    parts = objective(make_output({"audio": EQUAL}), audio_signal(ORTHOGONAL))
    assert list(parts) == ["ktd_audio"]
    assert parts["ktd_audio"].item() == pytest.approx(3 * 2.0)


def test_spread_is_the_mean_over_clips_of_unequal_batches(student_grids, make_signal):
    signals = [make_signal(batch=4, seed=0), make_signal(batch=1, seed=1)]
    objective = ktd(student_grids)
    objective.calibrate(signals)
    clips = torch.cat([gram_spread(signal.tokens["audio"], TokenKernel()) for signal in signals])
    assert objective.to_dict()["teacher_spread"]["audio"] == pytest.approx(clips.mean().item(), rel=1e-6)
    again = ktd(student_grids)
    again.calibrate(iter(signals))
    assert torch.equal(again.teacher_spread, objective.teacher_spread)


def test_spread_is_measured_on_what_is_compared(student_grids, make_signal):
    """Pooled onto the student's grid, and inside the windows."""
    grids = grids_of((8, 8), (8, 8))
    signal = make_signal(grids)
    objective = ktd(student_grids, sliding_windows=True)
    objective.calibrate([signal])
    pooled = pool_branch("fusion", signal.tokens["fusion"], grids, student_grids)
    expected = gram_spread(pooled, TokenKernel(), windows=sliding_windows("fusion", student_grids)).mean()
    assert objective.to_dict()["teacher_spread"]["fusion"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_scaled_loss_does_not_see_the_contrast_of_a_branch(name, student_grids, make_tokens, make_output):
    """
    Tokens that are one common direction plus small deviations: shrinking both sides' deviations tenfold shrinks the
    plain loss ten-thousandfold and leaves the scaled loss alone.
    """
    common = torch.ones(1, 1, 6, dtype=torch.float64)
    losses = {"none": [], "teacher_spread": []}
    for contrast in (1e-2, 1e-3):
        student, teacher = (
            {
                branch: common + contrast * value
                for branch, value in make_tokens(seed=seed, dtype=torch.float64).items()
            }
            for seed in (0, 1)
        )
        signal = TeacherSignal(logits=torch.zeros(3, 2), tokens=teacher, grids=student_grids)
        for scale, values in losses.items():
            objective = ktd(student_grids, kernel=TokenKernel(name), scale=scale)
            # at the smaller contrast the spread lies below the floor that guards against rounding errors
            objective.teacher_spread.copy_(
                torch.stack([gram_spread(teacher[branch], objective.kernel).mean() for branch in BRANCHES])
            )
            values.append(objective(make_output(student), signal)["ktd_audio"].item())
    assert losses["none"][0] > 5000 * losses["none"][1]
    assert losses["teacher_spread"][0] == pytest.approx(losses["teacher_spread"][1], rel=0.05)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_gradient_equals_finite_differences(name, windowed, make_tokens, make_signal, make_output):
    grids = grids_of((4, 4), (4, 4))
    objective = ktd(grids, kernel=TokenKernel(name), sliding_windows=windowed)
    signal = make_signal(grids_of((4, 8), (4, 4)), batch=1, dtype=torch.float64)
    objective.calibrate([signal])
    tokens = make_tokens(grids, width=2, batch=1, seed=1, dtype=torch.float64)

    def parts(*values):
        return tuple(objective(make_output(dict(zip(BRANCHES, values, strict=True))), signal).values())

    assert torch.autograd.gradcheck(parts, [tokens[branch].requires_grad_() for branch in BRANCHES])


def test_perfect_student_has_loss_zero(student_grids, make_signal, make_output):
    signal = make_signal()
    objective = ktd(student_grids)
    objective.calibrate([signal])
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    parts = objective(make_output({branch: value @ rotation for branch, value in signal.tokens.items()}), signal)
    assert max(part.item() for part in parts.values()) < 1e-9


def test_larger_teacher_grid_is_pooled(student_grids, make_tokens, make_signal, make_output):
    grids = grids_of((8, 16), (4, 8))
    signal, tokens = make_signal(grids), make_tokens(seed=1)
    parts = ktd(student_grids, scale="none")(make_output(tokens), signal)
    pooled = pool_branch("audio", signal.tokens["audio"], grids, student_grids)
    expected = token_distillation_loss(tokens["audio"], pooled, TokenKernel()).mean()
    torch.testing.assert_close(parts["ktd_audio"], expected)


def test_parts_are_float32_under_autocast_and_give_the_teacher_no_gradient(
    student_grids, make_tokens, make_signal, make_output
):
    signal, tokens = make_signal(), make_tokens(seed=1)
    objective = ktd(student_grids)
    objective.calibrate([signal])
    expected = objective(make_output(tokens), signal)
    for value in (*tokens.values(), *signal.tokens.values()):
        value.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = objective(make_output(tokens), signal)
    sum(parts.values()).backward()
    for name, part in parts.items():
        assert part.dtype == torch.float32
        assert torch.equal(part, expected[name])
    assert all(value.grad is None for value in signal.tokens.values())
    assert all(value.grad is not None for value in tokens.values())


def test_branch_without_student_tokens_is_skipped(student_grids, make_tokens, make_signal, make_output):
    objective = ktd(student_grids, scale="none")
    audio_only = {"audio": make_tokens()["audio"]}
    assert list(objective(make_output(audio_only), make_signal())) == ["ktd_audio"]
    with pytest.raises(ValueError, match="output_tokens=True"):
        objective(make_output({}), make_signal())


def test_branch_without_teacher_tokens_raises(student_grids, make_tokens, make_signal, make_output):
    signal = make_signal()
    del signal.tokens["visual"]
    with pytest.raises(ValueError, match=r"returned visual tokens, the teacher only those of \['audio', 'fusion'\]"):
        ktd(student_grids, scale="none")(make_output(make_tokens()), signal)


def test_branches_choose_what_is_distilled(student_grids, make_tokens, make_signal, make_output):
    objective = ktd(student_grids, scale="none", branches=["fusion", "audio"])
    assert list(objective(make_output(make_tokens()), make_signal())) == ["ktd_audio", "ktd_fusion"]


def test_uncalibrated_objective_raises(student_grids, make_tokens, make_signal, make_output):
    objective = ktd(student_grids)
    assert objective.requires_calibration
    with pytest.raises(RuntimeError, match=r"has not measured the audio branch.*calibrate\(signals\)"):
        objective(make_output(make_tokens()), make_signal())
    signal = make_signal()
    del signal.tokens["visual"], signal.tokens["fusion"]
    objective.calibrate([signal])
    assert objective.requires_calibration
    with pytest.raises(RuntimeError, match="has not measured the visual branch"):
        objective(make_output(make_tokens()), make_signal())


def test_calibration_without_signals_raises(student_grids):
    with pytest.raises(ValueError, match="calibrate got no teacher tokens"):
        ktd(student_grids).calibrate([])


def test_constant_teacher_raises(student_grids, make_signal):
    signal = make_signal()
    signal.tokens["visual"] = torch.ones_like(signal.tokens["visual"])
    with pytest.raises(ValueError, match=r"teacher's visual Gram matrices are constant .*Leave 'visual' out"):
        ktd(student_grids).calibrate([signal])


def test_plain_scale_needs_no_calibration(student_grids):
    objective = ktd(student_grids, scale="none")
    assert not objective.requires_calibration
    objective.calibrate([])


def test_state_dict_carries_the_scale(student_grids, make_tokens, make_signal, make_output):
    objective, restored = ktd(student_grids), ktd(student_grids)
    objective.calibrate([make_signal()])
    restored.load_state_dict(objective.state_dict())
    assert not restored.requires_calibration
    output, signal = make_output(make_tokens(seed=1)), make_signal(seed=2)
    assert restored(output, signal) == objective(output, signal)


def test_recalibration_replaces_the_scale(make_output):
    objective = ktd(PAIR, kernel=TokenKernel("linear"), branches=("audio",))
    objective.calibrate([audio_signal(torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]))])
    objective(make_output({"audio": EQUAL}), audio_signal(ORTHOGONAL))
    objective.calibrate([audio_signal(ORTHOGONAL)])
    assert objective(make_output({"audio": EQUAL}), audio_signal(ORTHOGONAL))["ktd_audio"].item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_grids": {"audio": ((4, 8),)}}, "needs the grids of visual, fusion, got"),
        ({"student_grids": grids_of((4, 8), (0, 4))}, "needs two positive sides"),
        ({"delta": 0.0}, "delta must be positive and finite, got 0.0"),
        ({"weight": 0.0}, "weight must be positive and finite, got 0.0"),
        ({"scale": "auto"}, "unknown scale 'auto'; known are teacher_spread, none"),
        ({"branches": ("audio", "video")}, r"branches must name some of .*got \['audio', 'video'\]"),
        ({"branches": ()}, "branches must name some of"),
        ({"student_grids": grids_of((2, 8), (4, 4)), "sliding_windows": True}, "at least 4 tokens, got 2"),
    ],
)
def test_invalid_option_raises(options, message, student_grids):
    with pytest.raises(ValueError, match=message):
        KernelizedTokenDistillation(**({"student_grids": student_grids} | options))


def test_reports_itself(student_grids, make_signal):
    objective = ktd(student_grids, kernel=TokenKernel("polynomial"), weight=2.0)
    report = objective.to_dict()
    assert report["teacher_spread"] == {"audio": None, "visual": None, "fusion": None}
    objective.calibrate([make_signal()])
    report = objective.to_dict()
    assert min(report["teacher_spread"].values()) > 0
    assert report["kernel"] == {"name": "polynomial", "constant": 1.0, "degree": 2}
    assert (report["name"], report["weight"], report["scale"]) == ("ktd", 2.0, "teacher_spread")
    assert json.loads(json.dumps(report)) == report
    assert "nspzrcvzcB" in objective.citation
    assert objective.requires_tokens
    assert not objective.requires_entropies
