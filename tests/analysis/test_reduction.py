from __future__ import annotations

import numpy as np
import pytest

from hf_emktd.analysis.reduction import normal_scores, principal_components


@pytest.fixture
def vectors():
    random = np.random.default_rng(0)
    return random.standard_normal((200, 3)) @ random.standard_normal((3, 8)) + 5


def test_components_are_white(vectors):
    components = principal_components(vectors, 3)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(components.T @ components / 200, np.eye(3), atol=1e-10)


def test_no_more_components_than_the_vectors_span(vectors):
    assert principal_components(vectors, 6).shape == (200, 3)
    assert principal_components(vectors.astype(np.float32), 6).shape == (200, 3)


def test_the_largest_direction_comes_first():
    random = np.random.default_rng(0)
    shared = random.standard_normal(500)
    vectors = np.stack([shared, -shared, shared, random.standard_normal(500)], axis=1)
    assert abs(np.corrcoef(principal_components(vectors, 1)[:, 0], shared)[0, 1]) > 0.99


def test_scale_and_constant_columns_play_no_part(vectors):
    changed = np.hstack([vectors * np.logspace(-3, 3, 8) + 7, np.full((200, 1), 3.0)])
    first, second = principal_components(vectors, 3), principal_components(changed, 3)
    np.testing.assert_allclose(np.abs((first * second).mean(axis=0)), 1, atol=1e-6)


@pytest.mark.parametrize(
    "broken, message",
    [
        (np.ones((10, 4)), "all 10 clips have the same vector"),
        (np.array([[0.0], [np.nan]]), "some tokens are infinite or NaN"),
        (np.array([[0.0], [np.inf]]), "some tokens are infinite or NaN"),
    ],
)
def test_refusals(broken, message):
    with pytest.raises(ValueError, match=message):
        principal_components(broken, 2)


def test_normal_scores_by_hand():
    scores = normal_scores(np.array([[3.0], [1.0], [2.0]]))
    # quantiles 5/6, 1/6 and 1/2
    np.testing.assert_allclose(scores[:, 0], [0.967422, -0.967422, 0.0], atol=1e-6)


def test_normal_scores_keep_nothing_but_order(vectors):
    np.testing.assert_array_equal(normal_scores(vectors), normal_scores(np.exp(vectors)))
