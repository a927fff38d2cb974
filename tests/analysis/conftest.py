from __future__ import annotations

import sys
from pathlib import Path

import pytest

# tiny models and clips
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import tiny_runs
import tiny_scenes

from hf_emktd.distillation import LiveTeacher


@pytest.fixture
def teacher() -> LiveTeacher:
    return tiny_runs.make_teacher()


@pytest.fixture
def views():
    return tiny_runs.make_views(tiny_runs.make_features(count=12))


@pytest.fixture
def mask_teacher() -> LiveTeacher:
    model = tiny_scenes.make_model(seed=1)
    return LiveTeacher(model, tiny_scenes.make_monitor(model))


@pytest.fixture
def mask_views():
    return tiny_scenes.make_views(tiny_scenes.make_features(count=4, labelled=1))
