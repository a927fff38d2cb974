"""Objectives by task."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tiny_runs import make_arguments, make_model

from hf_emktd.distillation import EntropyMonitoredDistillation, LogitDistillation, MaskLogitDistillation
from hf_emktd.training import build_objectives

FRAMES = {"audio": ((4, 6),) * 2, "visual": ((7, 7),) * 2, "fusion": ((14, 14),) * 2}


@pytest.mark.parametrize(
    ("task", "kind", "temperature"),
    [
        ("audio-visual-classification", LogitDistillation, 4.0),
        ("audio-visual-segmentation", MaskLogitDistillation, 1.0),
    ],
)
def test_kd_is_that_of_the_task(tmp_path, task, kind, temperature):
    args = make_arguments(tmp_path, kd_weight=0.5, kd_temperature=2.0)
    config = SimpleNamespace(task=task, branch_grids=FRAMES)
    em_ktd, kd = build_objectives(args, config, config)
    assert type(em_ktd) is EntropyMonitoredDistillation and em_ktd.student_grids == FRAMES
    assert type(kd) is kind and (kd.weight, kd.temperature) == (0.5, 2.0)
    args.kd_temperature = None
    assert build_objectives(args, config, config)[1].temperature == temperature


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_branches_that_the_student_lacks_are_left_out(tmp_path, modality):
    args = make_arguments(tmp_path, objective=["em_ktd", "kd", "fd_cmkd"])
    student, teacher = make_model(modalities=[modality]).config, make_model().config
    em_ktd, _, fd_cmkd = build_objectives(args, student, teacher)
    assert em_ktd.branches == (modality, "fusion")
    assert ("fusion", "fusion") in fd_cmkd.pairs
    # the other way round the teacher's fusion tokens lack half of the student's
    args.objective = ["em_ktd"]
    assert build_objectives(args, teacher, student)[0].branches == (modality,)


def test_models_without_a_common_branch_are_refused(tmp_path):
    args = make_arguments(tmp_path, objective=["ktd"])
    student, teacher = (make_model(modalities=[modality]).config for modality in ("audio", "visual"))
    with pytest.raises(ValueError, match=r"ktd .* student \(audio, fusion\) .* teacher \(visual, fusion\) share"):
        build_objectives(args, student, teacher)
    args.objective = ["kd", "fd_cmkd"]
    assert len(build_objectives(args, student, teacher)) == 2
    args.objective, args.branches = ["ktd"], ["visual"]
    with pytest.raises(ValueError, match="of visual the student"):
        build_objectives(args, student, make_model().config)


def test_classifiers_of_clips_do_not_exist_for_masks(tmp_path):
    args = make_arguments(tmp_path, objective=["fd_cmkd"])
    config = SimpleNamespace(task="audio-visual-segmentation", branch_grids=FRAMES)
    with pytest.raises(ValueError, match="fd_cmkd does not exist for audio-visual-segmentation; known: kd, "):
        build_objectives(args, config, config)
