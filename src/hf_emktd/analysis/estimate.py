"""A number of nats with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Two-sided 95 % of a normal distribution.
DEVIATIONS = 1.96
LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """
    Mutual information in nats, with an interval of about 95 %.

    Args:
        nats: the estimate. It may be negative, as estimators without a floor are where there is no information.
        low, high: the interval.
        standard_error: what the interval is made of.
        correction: the part of `nats` that is a correction of the estimator's bias. Where that is large, little of the
            rest was measured.
    """

    nats: float
    low: float
    high: float
    standard_error: float
    correction: float = 0.0


def bootstrapped(contributions: np.ndarray, draws: int = 1000, seed: int = 0) -> Estimate:
    """
    The mean of each clip's contribution `(clips,)`, with the percentile bootstrap over clips. What made the
    contributions is not repeated, so the interval leaves out how much a second training would differ.
    """
    random = np.random.default_rng(seed)
    clips = len(contributions)
    means = np.array([contributions[random.integers(clips, size=clips)].mean() for _ in range(draws)])
    low, high = np.quantile(means, LEVELS)
    return Estimate(float(contributions.mean()), float(low), float(high), float(means.std()))


def half_sampled(
    estimator: Callable[[np.ndarray], float], clips: int, correction: float = 0.0, draws: int = 30, seed: int = 0
) -> Estimate:
    """
    What `estimator` gives for all clips, with an interval from how much it differs between random halves of the clips.

    A bootstrap draws clips twice, and a clip's nearest neighbour is then itself: estimators on distances break. Halves
    are drawn without replacement; their variance about the whole sample's estimate is that of a whole sample about the
    truth, 1 / (n / 2) - 1 / n = 1 / n (a delete-half jackknife). Bias of the estimator is not in the interval.

    Args:
        estimator: takes indices of clips.
        correction: the part of what it gives for all clips that is a correction of its bias.
    """
    random = np.random.default_rng(seed)
    nats = estimator(np.arange(clips))
    halves = [estimator(random.permutation(clips)[: clips // 2]) for _ in range(draws)]
    error = float(np.std(halves, ddof=1))
    return Estimate(nats, nats - DEVIATIONS * error, nats + DEVIATIONS * error, error, correction)
