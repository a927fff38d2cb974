import math

import pytest
import torch
from token_formulas import CLIPS, GRID, formula_tokens

from hf_emktd.distillation import ClipRelationDistillation, EntropyMonitoredClipRelations, TeacherSignal

GRIDS = {"audio": (GRID,)}
# exp(-0.5 H) is 1, 1/2, 1/4, 0 and 1
ENTROPIES = torch.tensor([0.0, math.log(4), math.log(16), 1e4, 0.0])


@pytest.fixture
def signal():
    tokens = formula_tokens("teacher")
    return TeacherSignal(torch.zeros(CLIPS, 2), {"audio": tokens}, GRIDS, entropies={"audio": ENTROPIES})


def relations(objective=EntropyMonitoredClipRelations, **options):
    return objective(GRIDS, **{"branches": ("audio",), "scale": "none"} | options)


def pair_loss(make_output, i, j):
    """The plain loss of a batch of two clips."""
    signal = TeacherSignal(torch.zeros(2, 2), {"audio": formula_tokens("teacher")[[i, j]]}, GRIDS)
    output = make_output({"audio": formula_tokens("student")[[i, j]]})
    return relations(ClipRelationDistillation)(output, signal)["clip_ktd_audio"]


def test_a_pair_counts_the_product_of_its_weights(make_output, signal):
    loss = relations(weight=2.0)(make_output({"audio": formula_tokens("student")}), signal)["em_clip_ktd_audio"]
    weights = [1, 0.5, 0.25, 0, 1]
    pairs = [(i, j) for i in range(CLIPS) for j in range(CLIPS) if i != j]
    expected = sum(weights[i] * weights[j] * pair_loss(make_output, i, j) for i, j in pairs) / len(pairs)
    torch.testing.assert_close(loss, 2 * expected)


def test_clip_without_weight_gets_no_gradient(make_output, signal):
    student = formula_tokens("student").requires_grad_()
    relations()(make_output({"audio": student}), signal)["em_clip_ktd_audio"].backward()
    assert [bool(gradient.abs().max() > 0) for gradient in student.grad] == [True, True, True, False, True]


def test_a_float64_student_learns_from_a_float32_teacher(make_output, signal):
    gradients = []
    for tokens in (signal.tokens["audio"].float(), signal.tokens["audio"]):
        student = formula_tokens("student").requires_grad_()
        signal.tokens["audio"] = tokens
        relations()(make_output({"audio": student}), signal)["em_clip_ktd_audio"].backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_lambda_0_is_the_plain_objective(make_output, signal):
    output = make_output({"audio": formula_tokens("student")})
    plain, monitored = relations(ClipRelationDistillation), relations(entropy_lambda=0.0)
    torch.testing.assert_close(monitored(output, signal)["em_clip_ktd_audio"], plain(output, signal)["clip_ktd_audio"])


def test_calibration_does_not_see_the_entropies(signal):
    kinds = (EntropyMonitoredClipRelations, ClipRelationDistillation)
    objectives = [relations(kind, scale="teacher_spread") for kind in kinds]
    for objective in objectives:
        objective.calibrate([signal])
    assert objectives[0].to_dict()["teacher_spread"] == objectives[1].to_dict()["teacher_spread"]


def test_gradient_equals_finite_differences(make_output, signal):
    student = formula_tokens("student").requires_grad_()
    signal.entropies = {"audio": ENTROPIES.double()}
    objective = relations()
    assert torch.autograd.gradcheck(
        lambda x: objective(make_output({"audio": x}), signal)["em_clip_ktd_audio"], student
    )


def test_signal_without_entropies_raises(make_output, signal):
    signal.entropies = {}
    with pytest.raises(ValueError, match=r"no entropies of audio\. Give LiveTeacher an EntropyMonitor"):
        relations()(make_output({"audio": formula_tokens("student")}), signal)


def test_reports_itself():
    report = relations(entropy_lambda=1.0, pooling="flatten").to_dict()
    assert (report["name"], report["entropy_lambda"], report["pooling"]) == ("em_clip_ktd", 1.0, "flatten")
    assert EntropyMonitoredClipRelations.requires_entropies
    with pytest.raises(ValueError, match=r"entropy_lambda must not be negative, and finite, got -1"):
        relations(entropy_lambda=-1.0)
