"""Spearman, Kendall and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hf_emktd.search import rank_correlations

TRUTH = [1.0, 2.0, 3.0, 4.0]


def test_hand_computed_values():
    # ranks 2 1 4 3: squared differences 1 + 1 + 1 + 1, rho = 1 - 6 * 4 / (4 * 15); 4 of 6 pairs agree, 2 do not
    result = rank_correlations({"size": TRUTH, "score": [20.0, 10.0, 40.0, 30.0]}, TRUTH, "size", resamples=50)
    spearman, kendall = result["score"]["spearman"], result["score"]["kendall"]
    assert spearman.value == pytest.approx(0.6) and kendall.value == pytest.approx(1 / 3)
    assert spearman.beyond_baseline == pytest.approx(-0.4) and kendall.beyond_baseline == pytest.approx(-2 / 3)


def test_the_baseline_is_nothing_beyond_itself():
    own = rank_correlations({"size": TRUTH}, TRUTH, "size", resamples=50)["size"]["spearman"]
    assert own.value == pytest.approx(1.0)
    assert own.beyond_baseline == 0 and own.beyond_baseline_interval == (0, 0)


def test_equal_scipy_with_ties():
    random = np.random.default_rng(0)
    for _ in range(5):
        truth, score = random.integers(4, size=(2, 9)).astype(float)
        own = rank_correlations({"a": score}, truth, "a", resamples=10)["a"]
        assert own["spearman"].value == pytest.approx(stats.spearmanr(score, truth).statistic)
        assert own["kendall"].value == pytest.approx(stats.kendalltau(score, truth).statistic)


def test_a_perfect_order_has_an_interval_without_width():
    result = rank_correlations({"a": TRUTH, "b": [value**3 for value in TRUTH]}, TRUTH, "a", resamples=200)
    assert result["b"]["spearman"].interval == pytest.approx((1.0, 1.0))
    assert result["b"]["kendall"].beyond_baseline_interval == pytest.approx((0.0, 0.0))


def test_intervals_hold_the_value_and_are_the_same_every_time():
    truth = [1.0, 5.0, 2.0, 4.0, 3.0, 6.0, 8.0, 7.0]
    draws = [rank_correlations({"a": range(8)}, truth, "a", resamples=300)["a"]["kendall"] for _ in range(2)]
    assert draws[0] == draws[1]
    low, high = draws[0].interval
    assert -1 <= low < draws[0].value < high <= 1


def test_a_constant_predictor_has_no_rank_correlation():
    result = rank_correlations({"a": TRUTH, "b": [1.0] * 4}, TRUTH, "a", resamples=20)
    assert math.isnan(result["b"]["spearman"].value) and math.isnan(result["b"]["kendall"].interval[0])


@pytest.mark.parametrize(
    ("predictors", "truth", "message"),
    [
        ({"b": TRUTH}, TRUTH, "baseline must be one of b, got 'a'"),
        ({"a": [1, 2]}, [1, 2], "at least three students, got 2"),
        ({"a": TRUTH, "b": [1]}, TRUTH, "b has 1 values for 4 students"),
    ],
)
def test_what_does_not_fit(predictors, truth, message):
    with pytest.raises(ValueError, match=message):
        rank_correlations(predictors, truth, "a")
