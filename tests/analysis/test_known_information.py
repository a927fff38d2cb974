from __future__ import annotations

import numpy as np
import pytest

from hf_emktd.analysis.known_information import (
    check_classes,
    check_gaussians,
    class_information,
    gaussian_sample,
    uniform_sample,
)
from hf_emktd.analysis.nearest_neighbours import gaussian_information


def test_samples_have_the_information_that_is_claimed():
    first, second = gaussian_sample(0.8, 20_000, np.random.default_rng(0))
    correlations = np.corrcoef(np.hstack([first, second]), rowvar=False)
    assert gaussian_information(correlations, 4) == pytest.approx(-2 * np.log(1 - 0.64), rel=0.02)


def test_uniform_noise_is_bounded_by_its_width():
    random = np.random.default_rng(0)
    sides = uniform_sample(0.2, 5000, random)
    # the mixing is linear: a least-squares map leaves uniform noise of that width, less a little
    left = sides[1] - sides[0] @ np.linalg.lstsq(sides[0], sides[1], rcond=None)[0]
    deviations = np.linalg.svd(left - left.mean(axis=0), compute_uv=False) / np.sqrt(5000)
    assert 0.2 / np.sqrt(12) * 0.9 < deviations.min() and deviations.max() < 2 * 0.2 / np.sqrt(12) * 1.1


def test_classes_in_one_place_and_far_apart():
    random = np.random.default_rng(0)
    assert class_information(np.zeros((3, 2)), random) == pytest.approx(0)
    assert class_information(50 * np.eye(3), random) == pytest.approx(np.log(3))


def test_two_classes_by_quadrature():
    """One dimension, means 2 apart: h(mixture) - h(normal), integrated."""
    grid = np.linspace(-10, 12, 200_001)
    density = (np.exp(-(grid**2) / 2) + np.exp(-((grid - 2) ** 2) / 2)) / np.sqrt(8 * np.pi)
    entropy = -np.trapezoid(density * np.log(density), grid)
    expected = entropy - 0.5 * np.log(2 * np.pi * np.e)
    means = np.array([[0.0], [2.0]])
    assert class_information(means, np.random.default_rng(0)) == pytest.approx(expected, abs=0.005)


def test_checks_hold_truth_and_estimates():
    check = next(iter(check_gaussians((0.9,), clips=400, samples=1)))
    assert check.truth == pytest.approx(-2 * np.log(1 - 0.81))
    assert check.estimates.keys() == check.deviations.keys() == {"nearest neighbours", "learned bound"}
    assert check.ratios["nearest neighbours"] == pytest.approx(1, abs=0.1)
    check = next(iter(check_classes((4.0,), clips=400, samples=1)))
    assert check.ratios["nearest neighbours"] == pytest.approx(1, abs=0.1)
