"""Objectives by task."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tiny_runs import make_arguments

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
