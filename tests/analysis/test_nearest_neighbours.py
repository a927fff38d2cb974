from __future__ import annotations

import numpy as np
import pytest
from scipy.special import digamma

from hf_emktd.analysis.known_information import gaussian_sample
from hf_emktd.analysis.nearest_neighbours import (
    gaussian_bias,
    gaussian_information,
    kraskov,
    neighbour_information,
    neighbour_label_information,
    ross,
)
from hf_emktd.analysis.reduction import normal_scores, principal_components


def random(seed=0):
    return np.random.default_rng(seed)


def kraskov_by_hand(first, second, neighbours):
    """Equation 8 of the source, distance by distance."""
    terms = []
    for i in range(len(first)):
        a, b = np.abs(first - first[i]).max(axis=1), np.abs(second - second[i]).max(axis=1)
        reach = np.sort(np.maximum(a, b))[neighbours]
        terms.append(digamma((a < reach).sum()) + digamma((b < reach).sum()))
    return digamma(neighbours) + digamma(len(first)) - np.mean(terms)


def ross_by_hand(points, labels, neighbours):
    terms = []
    for i in range(len(points)):
        distances = np.abs(points - points[i]).max(axis=1)
        own = np.sort(distances[labels == labels[i]])
        k = min(neighbours, len(own) - 1)
        terms.append(digamma(k) - digamma(len(own)) - digamma((distances < own[k]).sum()))
    return digamma(len(points)) + np.mean(terms)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_kraskov_is_the_published_formula(neighbours):
    first, second = random().standard_normal((60, 2)), random(1).standard_normal((60, 3))
    second[:, 0] += first[:, 0]
    assert kraskov(first, second, neighbours) == pytest.approx(kraskov_by_hand(first, second, neighbours))


def test_ross_is_the_published_formula_also_in_small_classes():
    points, labels = random().standard_normal((60, 2)), random(1).integers(3, size=60)
    labels[:2] = 7  # fewer clips than neighbours
    assert ross(points, labels, 3) == pytest.approx(ross_by_hand(points, labels, 3))


def test_a_clip_that_is_alone_in_its_class_is_left_out():
    points, labels = random().standard_normal((61, 2)), random(1).integers(3, size=61)
    labels[5] = 9
    others = np.arange(61) != 5
    assert ross(points, labels) == pytest.approx(ross(points[others], labels[others]))


def test_more_points_than_a_block_give_the_same():
    first, second = gaussian_sample(0.8, 600, random())
    assert kraskov(first, second) == pytest.approx(kraskov_by_hand(first, second, 3))


@pytest.mark.parametrize("correlation", [0.6, 0.8, 0.95])
def test_joint_gaussians_within_a_tenth(correlation):
    truth = -2 * np.log1p(-(correlation**2))
    estimate = neighbour_information(*gaussian_sample(correlation, 1500, random(1)))
    assert estimate.nats == pytest.approx(truth, rel=0.1)
    assert estimate.correction > 0


def test_the_interval_knows_that_the_correction_varies_too():
    """Corrected by a constant, halves would differ by 0.06 where samples differ by 0.1."""
    estimates = [neighbour_information(*gaussian_sample(0.9, 300, random(seed))) for seed in range(12)]
    deviation = np.std([one.nats for one in estimates], ddof=1)
    assert np.mean([one.standard_error for one in estimates]) == pytest.approx(deviation, rel=0.3)


def test_the_correction_is_what_plain_neighbours_lack():
    sides = [normal_scores(principal_components(side, 4)) for side in gaussian_sample(0.9, 800, random())]
    truth = -2 * np.log1p(-(0.9**2))
    assert kraskov(*sides) < 0.85 * truth
    assert kraskov(*sides) - gaussian_bias(*sides) == pytest.approx(truth, rel=0.05)


def test_nothing_shared_is_about_zero():
    first, second = random().standard_normal((1000, 4)), random(1).standard_normal((1000, 4))
    estimate = neighbour_information(first, second)
    assert abs(estimate.nats) < 0.1 and estimate.low < 0 < estimate.high


def test_monotone_changes_and_swapped_sides_change_nothing():
    first, second = random().standard_normal((400, 1)), random(1).standard_normal((400, 1))
    second += first
    expected = neighbour_information(first, second).nats
    assert neighbour_information(np.exp(first), second**3).nats == pytest.approx(expected)
    assert kraskov(second, first) == pytest.approx(kraskov(first, second))


def test_one_side_a_function_of_the_other_gives_a_finite_number():
    vectors = random().standard_normal((300, 4))
    assert 3 < neighbour_information(vectors, vectors).nats < 30


def test_classes_far_apart_tell_all():
    labels = random().integers(4, size=800)
    vectors = 20 * np.eye(4)[labels] + random(1).standard_normal((800, 4))
    assert neighbour_label_information(vectors, labels).nats == pytest.approx(np.log(4), abs=0.05)
    assert abs(neighbour_label_information(vectors, random(2).permutation(labels)).nats) < 0.05


def test_gaussian_information_by_hand():
    correlations = np.array([[1, 0.6], [0.6, 1]])
    assert gaussian_information(correlations, 1) == pytest.approx(-0.5 * np.log(1 - 0.36))


def test_refusals():
    vectors = random().standard_normal((50, 3))
    with pytest.raises(ValueError, match="of the same clips, got 50 and 40"):
        neighbour_information(vectors, vectors[:40])
    with pytest.raises(ValueError, match="8 clips are too few for 3 neighbours; give at least 12"):
        neighbour_information(vectors[:8], vectors[:8])
    with pytest.raises(ValueError, match="none of the 50 classes has two clips"):
        neighbour_label_information(vectors, np.arange(50))
