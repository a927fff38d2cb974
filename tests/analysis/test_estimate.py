from __future__ import annotations

import numpy as np
import pytest

from hf_emktd.analysis.estimate import bootstrapped, half_sampled


@pytest.fixture
def values():
    return 2 + np.random.default_rng(0).standard_normal(400)


def test_bootstrap_of_a_mean(values):
    estimate = bootstrapped(values)
    assert estimate.nats == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(values.std() / 20, rel=0.1)
    assert estimate.low == pytest.approx(estimate.nats - 1.96 * values.std() / 20, abs=0.02)
    assert estimate.high == pytest.approx(estimate.nats + 1.96 * values.std() / 20, abs=0.02)


def test_random_halves_find_the_standard_error_of_a_mean(values):
    estimate = half_sampled(lambda rows: values[rows].mean(), len(values), draws=500)
    assert estimate.nats == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(values.std() / 20, rel=0.1)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * estimate.standard_error)


def test_halves_hold_no_clip_twice(values):
    halves = []
    half_sampled(lambda rows: halves.append(rows) or 0.0, len(values), draws=3)
    assert [len(np.unique(rows)) for rows in halves] == [400, 200, 200, 200]


def test_a_correction_is_told_and_belongs_to_the_estimate(values):
    plain = half_sampled(lambda rows: values[rows].mean(), len(values))
    told = half_sampled(lambda rows: values[rows].mean(), len(values), correction=0.5)
    assert told.correction == 0.5 and told.nats == plain.nats
