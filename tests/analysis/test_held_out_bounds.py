from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_emktd.analysis.held_out_bounds import (
    LabelProbe,
    PairCritic,
    ceiling,
    held_out_information,
    held_out_label_information,
)
from hf_emktd.analysis.known_information import class_information, class_sample, gaussian_sample


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("correlation", [0.7, 0.9])
def test_joint_gaussians_within_a_tenth(correlation):
    truth = -2 * np.log1p(-(correlation**2))
    estimate = held_out_information(*gaussian_sample(correlation, 1000, random()))
    assert estimate.nats == pytest.approx(truth, rel=0.1)
    assert estimate.low < estimate.nats < estimate.high


def test_nothing_shared_is_nothing():
    first, second = random().standard_normal((500, 4)), random(1).standard_normal((500, 4))
    assert abs(held_out_information(first, second).nats) < 0.03
    assert abs(held_out_label_information(first, random(2).integers(5, size=500)).nats) < 0.03


def test_classes_within_a_tenth():
    means = 1.5 * random().standard_normal((5, 4))
    truth = class_information(means, random())
    estimate = held_out_label_information(*class_sample(means, 900, random(1)))
    assert estimate.nats == pytest.approx(truth, rel=0.1)
    assert estimate.nats < np.log(5)


def test_labels_are_names_not_numbers():
    vectors, labels = class_sample(random().standard_normal((3, 4)), 90, random(1))
    expected = held_out_label_information(vectors, labels)
    assert held_out_label_information(vectors, 100 * labels + 7) == expected


def test_one_seed_one_estimate_and_other_random_numbers_untouched():
    first, second = gaussian_sample(0.8, 60, random())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    estimate = held_out_information(first, second, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert held_out_information(first, second, seed=1) == estimate != held_out_information(first, second, seed=2)


def test_the_ceiling_is_where_every_clip_is_recognised():
    vectors = random().standard_normal((60, 4))
    assert ceiling(300) == pytest.approx(np.log(100)) and ceiling(301) == pytest.approx(np.log(101))
    assert held_out_information(vectors, vectors).nats <= ceiling(60)


def test_untrained_everything_contributes_zero():
    first, second = torch.randn(20, 3), torch.randn(20, 5)
    labels = torch.tensor([0] * 15 + [1] * 5)
    torch.testing.assert_close(PairCritic(first, second).contributions(first, second), torch.zeros(20))
    torch.testing.assert_close(LabelProbe(first, labels).contributions(first, labels), torch.zeros(20))


def test_contributions_by_hand():
    critic = PairCritic(torch.zeros(2, 1), torch.zeros(2, 1))
    for module in (*critic.embeddings, *critic.offsets):
        module.at_zero()
    for embedding in critic.embeddings:
        embedding.linear.weight.data[0, 0] = 1.0
    # scores x y: [[1, 2], [2, 4]]
    vectors = torch.tensor([[1.0], [2.0]])
    first = 1 - np.log((np.e + np.e**2) / 2)
    second = 4 - np.log((np.e**2 + np.e**4) / 2)
    torch.testing.assert_close(critic.contributions(vectors, vectors), torch.tensor([first, second]).float())


def test_sides_must_be_of_the_same_clips():
    with pytest.raises(ValueError, match="of the same clips, got 30 and 20"):
        held_out_information(random().standard_normal((30, 2)), random().standard_normal((20, 2)))
