from __future__ import annotations

import itertools

import numpy as np
import pytest

from hf_emktd.benchmark.statistics import PairedDifference, bootstrap_interval, mean_and_deviation


def test_the_interval_of_two_values_is_their_range():
    # resampled means 1, 2, 2, 3 with a quarter each: 2.5 % lies in the first, 97.5 % in the last
    assert bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)
    # at 40 % the ends are the quantiles 0.3 and 0.7: both 2
    assert bootstrap_interval([1.0, 3.0], level=0.4) == (2.0, 2.0)


def test_the_interval_of_five_values_by_enumeration():
    values = [0.0, 1.0, 2.0, 4.0, 8.0]
    means = sorted(sum(sample) / 5 for sample in itertools.product(values, repeat=5))
    # the 79th of 3,125 is the first with at least 2.5 % at or below it, the 3,047th the first with 97.5 %
    assert bootstrap_interval(values) == pytest.approx((means[78], means[3046]))


def test_many_values_are_drawn_with_a_fixed_seed():
    values = np.random.default_rng(1).normal(5, 2, 40)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    error = 1.96 * values.std() / np.sqrt(40)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1)


def test_one_value_has_no_width():
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    assert mean_and_deviation([0.5]) == (0.5, None)


def test_mean_and_deviation():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_differences_are_paired_by_seed():
    difference = PairedDifference.of({0: 0.9, 1: 0.5, 3: 0.1}, {1: 0.4, 0: 0.6, 2: 0.0})
    assert difference.seeds == 2
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.2, 0.1, 0.3))
    assert PairedDifference.of({0: 1.0}, {1: 1.0}) is None
