"""Objectives by task."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import make_arguments, make_model

from hf_emktd.distillation import EntropyMonitoredDistillation, LogitDistillation, MaskLogitDistillation
from hf_emktd.training import DistillationArguments, build_objectives
from hf_emktd.training.command_line import parse_arguments

FRAMES = {"audio": ((4, 6),) * 2, "visual": ((7, 7),) * 2, "fusion": ((14, 14),) * 2}


@pytest.mark.parametrize(
    ("task", "kind", "temperature"),
    [
        ("audio-visual-classification", LogitDistillation, 4.0),
        ("audio-visual-segmentation", MaskLogitDistillation, 1.0),
    ],
)
def test_kd_is_that_of_the_task(tmp_path, task, kind, temperature):
    args = make_arguments(tmp_path, objective=["em_ktd", "kd"], kd_weight=0.5, kd_temperature=2.0)
    config = SimpleNamespace(task=task, branch_grids=FRAMES)
    em_ktd, kd = build_objectives(args, config, config)
    assert type(em_ktd) is EntropyMonitoredDistillation and em_ktd.student_grids == FRAMES
    assert type(kd) is kind and (kd.weight, kd.temperature) == (0.5, 2.0)
    args.kd_temperature = None
    assert build_objectives(args, config, config)[1].temperature == temperature


@pytest.mark.parametrize(
    ("task", "from_scratch", "weight"),
    [
        ("audio-visual-classification", True, 10.0),
        ("audio-visual-classification", False, 1.0),
        ("audio-visual-segmentation", True, 1.0),
    ],
)
def test_weights_that_are_not_given(tmp_path, task, from_scratch, weight):
    config, names = SimpleNamespace(task=task, branch_grids=FRAMES), ["em_ktd", "em_clip_ktd", "kd", "em_kd"]
    args = DistillationArguments(str(tmp_path), use_cpu=True, objective=names)
    objectives = build_objectives(args, config, config, from_scratch=from_scratch)
    assert [objective.weight for objective in objectives] == [weight] * 4


def test_relations_between_clips_have_a_weight_of_their_own(tmp_path):
    args = make_arguments(tmp_path, objective=["ktd", "clip_ktd", "em_clip_ktd"], ktd_weight=2.0, clip_ktd_weight=3.0)
    config = make_model().config
    assert [objective.weight for objective in build_objectives(args, config, config)] == [2.0, 3.0, 3.0]


def test_the_papers_recipe():
    recipe = Path(__file__).parents[2] / "scripts" / "recipes" / "paper.yaml"
    (args,) = parse_arguments((DistillationArguments,), None, ["--config", str(recipe), "--use_cpu"])
    config = make_model().config
    em_ktd, kd = build_objectives(args, config, config)
    assert (em_ktd.name, em_ktd.weight, em_ktd.scale) == ("em_ktd", 666.0, "none")
    assert (kd.name, kd.weight) == ("kd", 1.0)


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
