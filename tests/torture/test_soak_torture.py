"""Thousands of steps and calls in one process: memory is flat, and files and threads do not grow."""

from __future__ import annotations

import pytest

from soaking import soak_pipeline, soak_training

pytestmark = pytest.mark.torture


def test_five_thousand_steps(tmp_path):
    soak_training(tmp_path, steps=5000, every=50).assert_flat(bytes_a_step=500)


def test_two_thousand_calls(tmp_path):
    soak_pipeline(tmp_path, calls=2000, every=20).assert_flat(bytes_a_step=1000)
