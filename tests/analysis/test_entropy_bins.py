from __future__ import annotations

import numpy as np
import pytest

from hf_emktd.analysis import Readings, entropy_bins, rank_correlations


@pytest.fixture
def readings():
    entropies = np.array([1.5, 0.1, 0.5, 2.0, 0.2, 1.0])
    right = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    return Readings({"audio": entropies}, {"audio": right}, np.array([1.0, 1, 0, 0, 1, 1]))


def test_bins_hold_equally_many_in_order(readings):
    low, high = entropy_bins(readings, 0.5, bins=2)["audio"]
    assert (low.low, low.high, low.clips) == (0.1, 0.5, 3) and (high.low, high.high) == (1.0, 2.0)
    assert low.entropy == pytest.approx(0.8 / 3)
    assert low.weight == pytest.approx(np.exp(-0.5 * np.array([0.1, 0.2, 0.5])).mean())
    assert (low.probe_score, high.probe_score) == (1.0, 0.0)
    assert low.teacher_score == pytest.approx(2 / 3) == high.teacher_score


def test_clips_without_a_score_count_for_entropy_alone(readings):
    readings.probe_scores["audio"][1] = np.nan
    low = entropy_bins(readings, 0.5, bins=2)["audio"][0]
    assert low.clips == 3 and low.probe_score == 1.0


def test_entropy_that_knows_is_negatively_correlated(readings):
    assert rank_correlations(readings)["audio"] == pytest.approx(-0.878, abs=1e-3)
    readings.probe_scores["audio"][:] = 1
    assert rank_correlations(readings)["audio"] is None


def test_more_bins_than_clips_are_refused(readings):
    with pytest.raises(ValueError, match="6 clips do not fill 7 bins"):
        entropy_bins(readings, 0.5, bins=7)
