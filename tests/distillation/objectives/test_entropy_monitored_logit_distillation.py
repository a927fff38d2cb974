import math

import pytest
import torch

from hf_emktd.distillation import (
    BRANCHES,
    OBJECTIVES_OF_TASK,
    EntropyMonitoredLogitDistillation,
    EntropyMonitoredMaskLogitDistillation,
    LogitDistillation,
    MaskLogitDistillation,
    TeacherSignal,
)

# exp(-0.5 H) is 1, 1/2 and 1/4
ENTROPIES = torch.tensor([0.0, math.log(4), math.log(16)])
SHAPES = {
    LogitDistillation: (EntropyMonitoredLogitDistillation, (3, 5)),
    MaskLogitDistillation: (EntropyMonitoredMaskLogitDistillation, (3, 2, 4, 4)),
}


def logits_of(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def signal_of(logits):
    entropies = {"audio": ENTROPIES.flip(0), "visual": torch.zeros(len(logits)), "fusion": ENTROPIES}
    tokens = {branch: torch.zeros(len(logits), 4, 2) for branch in BRANCHES}
    return TeacherSignal(logits=logits, tokens=tokens, grids={}, entropies=entropies)


def clip_losses(plain, make_output, student, teacher, **options):
    return [
        plain(**options)(make_output({}, student[i : i + 1]), signal_of(teacher[i : i + 1]))["kd"] for i in range(3)
    ]


@pytest.fixture(params=SHAPES, ids=["classes", "masks"])
def case(request):
    monitored, shape = SHAPES[request.param]
    return request.param, monitored, logits_of(shape, 0), logits_of(shape, 1)


def test_each_clip_is_weighted_by_the_entropy_of_the_fusion_branch(case, make_output):
    plain, monitored, student, teacher = case
    a, b, c = clip_losses(plain, make_output, student, teacher, temperature=2.0, weight=3.0)
    parts = monitored(temperature=2.0, weight=3.0)(make_output({}, student), signal_of(teacher))
    assert list(parts) == ["em_kd"]
    torch.testing.assert_close(parts["em_kd"], (a + b / 2 + c / 4) / 3)


def test_another_branch_or_the_mean_of_all(case, make_output):
    plain, monitored, student, teacher = case
    a, b, c = clip_losses(plain, make_output, student, teacher)
    output, signal = make_output({}, student), signal_of(teacher)
    torch.testing.assert_close(monitored(branch="audio")(output, signal)["em_kd"], (a / 4 + b / 2 + c) / 3)
    # (1 + 1/4 + 1) / 3, (1/2 + 1/2 + 1) / 3, (1/4 + 1 + 1) / 3
    expected = (2.25 * a + 2 * b + 2.25 * c) / 9
    torch.testing.assert_close(monitored(branch="mean")(output, signal)["em_kd"], expected)


def test_lambda_0_is_kd(case, make_output):
    plain, monitored, student, teacher = case
    output, signal = make_output({}, student), signal_of(teacher)
    torch.testing.assert_close(monitored(entropy_lambda=0.0)(output, signal)["em_kd"], plain()(output, signal)["kd"])


def test_gradient_equals_finite_differences(case, make_output):
    _, monitored, student, teacher = case
    signal = signal_of(teacher)
    signal.entropies = {branch: entropies.double() for branch, entropies in signal.entropies.items()}
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: monitored()(make_output({}, x), signal)["em_kd"], student)


def test_part_is_float32_under_autocast(case, make_output):
    _, monitored, student, teacher = case
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = monitored()(make_output({}, student.bfloat16()), signal_of(teacher.bfloat16()))["em_kd"]
    assert loss.dtype == torch.float32


def test_logged_weights_are_those_of_the_chosen_branch(case):
    _, monitored, _, teacher = case
    assert list(monitored().branch_weights(signal_of(teacher))) == ["fusion"]
    assert list(monitored(branch="mean").branch_weights(signal_of(teacher))) == list(BRANCHES)


def test_missing_entropies_raise(case, make_output):
    _, monitored, student, teacher = case
    signal = signal_of(teacher)
    signal.entropies = {}
    with pytest.raises(ValueError, match=r"no entropies of fusion\. Give LiveTeacher an EntropyMonitor"):
        monitored()(make_output({}, student), signal)
    del signal.tokens["fusion"]
    with pytest.raises(ValueError, match=r"no fusion tokens.* Set `branch` to one of audio, visual"):
        monitored()(make_output({}, student), signal)


def test_invalid_option_raises(case):
    _, monitored, *_ = case
    with pytest.raises(ValueError, match="unknown branch 'video'; known are audio, visual, fusion and 'mean'"):
        monitored(branch="video")
    with pytest.raises(ValueError, match="entropy_lambda must not be negative"):
        monitored(entropy_lambda=-0.5)
    with pytest.raises(ValueError, match=f"{monitored.__name__}: temperature must be positive"):
        monitored(temperature=0.0)


def test_reports_itself(case):
    _, monitored, *_ = case
    temperature = 4.0 if monitored is EntropyMonitoredLogitDistillation else 1.0
    report = {"name": "em_kd", "temperature": temperature, "weight": 1.0, "entropy_lambda": 0.5, "branch": "fusion"}
    assert monitored().to_dict() == report
    assert monitored.requires_entropies and not monitored.requires_tokens
    assert "nspzrcvzcB" in monitored.citation


def test_each_task_has_its_own():
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert classification["em_kd"] is EntropyMonitoredLogitDistillation
    assert segmentation["em_kd"] is EntropyMonitoredMaskLogitDistillation
