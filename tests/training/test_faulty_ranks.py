"""A rank whose clip is no number ends the run with its own error; more faults are in tests/torture."""

from __future__ import annotations

import time

from launching import launch


def test_the_error_of_the_rank_that_failed_is_the_one_that_is_told(tmp_path):
    ended = launch("faulty_ranks_driver.py", tmp_path, "nan")
    assert ended.status != 0 and time.time() - (tmp_path / "nan.fault").stat().st_mtime < 60
    assert "rank      : 1" in ended.root_cause
    assert "FloatingPointError: loss_task" in ended.root_cause and "'clip" in ended.root_cause
    assert "gloo" not in ended.said
