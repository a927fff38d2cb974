"""A short sample of tests/torture/test_soak_torture.py: memory, files and threads of many steps and calls."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from soaking import soak_pipeline, soak_training


def test_steps_leave_nothing_behind(tmp_path):
    soak_training(tmp_path, steps=60, every=5, save_strategy="no").assert_flat(bytes_a_step=100_000)


def test_calls_leave_nothing_behind(tmp_path):
    soak_pipeline(tmp_path, calls=60, every=5).assert_flat(bytes_a_step=100_000)
