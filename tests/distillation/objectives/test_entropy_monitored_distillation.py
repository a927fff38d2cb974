import math

import pytest
import torch

from hf_emktd.distillation import (
    BRANCHES,
    OBJECTIVES,
    EntropyMonitoredDistillation,
    KernelizedTokenDistillation,
    LogitDistillation,
    TokenKernel,
)
from hf_emktd.distillation.token_distillation import token_distillation_loss

# exp(-0.5 H) is 1, 1/2 and 1/4
ENTROPIES = torch.tensor([0.0, math.log(4), math.log(16)])
WEIGHTS = torch.tensor([1.0, 0.5, 0.25])


@pytest.fixture
def signal(make_signal):
    certain = torch.zeros(3)
    return make_signal(width=9, entropies={"audio": ENTROPIES, "visual": ENTROPIES.flip(0), "fusion": certain})


def test_each_clip_is_weighted_by_its_entropy(student_grids, make_tokens, make_output, signal):
    objective = EntropyMonitoredDistillation(student_grids, scale="none", weight=2.0)
    tokens = make_tokens(seed=1)
    parts = objective(make_output(tokens), signal)
    assert list(parts) == ["em_ktd_audio", "em_ktd_visual", "em_ktd_fusion"]
    weights = {"audio": WEIGHTS, "visual": WEIGHTS.flip(0), "fusion": torch.ones(3)}
    for branch in BRANCHES:
        loss = token_distillation_loss(tokens[branch], signal.tokens[branch], TokenKernel())
        torch.testing.assert_close(parts[f"em_ktd_{branch}"], 2 * (weights[branch] * loss).sum() / 3)


def test_branch_weights_are_per_clip(student_grids, signal):
    weights = EntropyMonitoredDistillation(student_grids).branch_weights(signal)
    assert list(weights) == list(BRANCHES)
    torch.testing.assert_close(weights["visual"], WEIGHTS.flip(0))


def test_lambda_0_is_ktd(student_grids, make_tokens, make_output, signal):
    output = make_output(make_tokens(seed=1))
    monitored = EntropyMonitoredDistillation(student_grids, entropy_lambda=0.0)
    plain = KernelizedTokenDistillation(student_grids)
    for objective in (monitored, plain):
        objective.calibrate([signal])
    for branch in BRANCHES:
        torch.testing.assert_close(
            monitored(output, signal)[f"em_ktd_{branch}"], plain(output, signal)[f"ktd_{branch}"]
        )


def test_calibration_does_not_see_the_entropies(student_grids, make_signal, signal):
    with_entropies, without = (EntropyMonitoredDistillation(student_grids) for _ in range(2))
    with_entropies.calibrate([signal])
    without.calibrate([make_signal(width=9)])
    assert torch.equal(with_entropies.teacher_spread, without.teacher_spread)


def test_gradient_equals_finite_differences(student_grids, make_tokens, make_signal, make_output):
    signal = make_signal(dtype=torch.float64, entropies={branch: ENTROPIES.double() for branch in BRANCHES})
    objective = EntropyMonitoredDistillation(student_grids, branches=("visual",))
    objective.calibrate([signal])
    tokens = make_tokens(width=2, seed=1, dtype=torch.float64)["visual"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(make_output({"visual": x}), signal)["em_ktd_visual"], tokens)


def test_parts_stay_float32_under_autocast(student_grids, make_tokens, make_output, signal):
    objective = EntropyMonitoredDistillation(student_grids, scale="none")
    expected = objective(make_output(make_tokens()), signal)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = objective(make_output(make_tokens()), signal)
    assert all(part.dtype == torch.float32 and torch.equal(part, expected[name]) for name, part in parts.items())


def test_signal_without_entropies_raises(student_grids, make_tokens, make_signal, make_output):
    objective = EntropyMonitoredDistillation(student_grids, scale="none")
    with pytest.raises(
        ValueError, match=r"no entropies of audio, visual, fusion\. Give LiveTeacher an EntropyMonitor"
    ):
        objective(make_output(make_tokens()), make_signal())


def test_missing_modality_needs_no_entropy(student_grids, make_tokens, make_output, signal):
    for branch in ("visual", "fusion"):
        del signal.tokens[branch], signal.entropies[branch]
    objective = EntropyMonitoredDistillation(student_grids, scale="none")
    assert list(objective(make_output({"audio": make_tokens()["audio"]}), signal)) == ["em_ktd_audio"]
    assert list(objective.branch_weights(signal)) == ["audio"]


def test_invalid_option_raises(student_grids):
    with pytest.raises(ValueError, match="entropy_lambda must not be negative"):
        EntropyMonitoredDistillation(student_grids, entropy_lambda=-1.0)
    with pytest.raises(ValueError, match="unknown scale"):
        EntropyMonitoredDistillation(student_grids, scale="auto")


def test_reports_itself(student_grids):
    report = EntropyMonitoredDistillation(student_grids, entropy_lambda=1.0).to_dict()
    assert (report["name"], report["entropy_lambda"], report["delta"]) == ("em_ktd", 1.0, 1.0)
    assert EntropyMonitoredDistillation.requires_entropies


def test_objectives_are_found_by_name():
    assert OBJECTIVES["kd"] is LogitDistillation
    assert OBJECTIVES["ktd"] is KernelizedTokenDistillation
    assert OBJECTIVES["em_ktd"] is EntropyMonitoredDistillation
    assert all(objective.name == name for name, objective in OBJECTIVES.items())
