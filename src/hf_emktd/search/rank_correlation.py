"""How far one order of students agrees with another, and how sure a few students make us of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

Interval = tuple[float, float]


@dataclass(frozen=True)
class RankCorrelation:
    """
    Agreement of a predictor's order with the truth's, -1 to 1, NaN where either is constant.

    Args:
        value: Spearman's rho, or Kendall's tau-b.
        interval: of 95 %, by percentiles over students drawn with replacement.
        beyond_baseline: the value minus the baseline's, 0 for the baseline itself.
        beyond_baseline_interval: of it, on the same draws.
    """

    value: float
    interval: Interval
    beyond_baseline: float
    beyond_baseline_interval: Interval


def rank_correlations(
    predictors: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    baseline: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, RankCorrelation]]:
    """
    Spearman's and Kendall's coefficient of each predictor with `truth`, by predictor and `"spearman"` or `"kendall"`.

    Draws in which a predictor or the truth is constant have no coefficient and are left out of its interval. With few
    students the intervals are wide, and those of a bootstrap still too narrow rather than too wide.

    Args:
        predictors: by name, one number a student.
        truth: what was measured after training, one number a student.
        baseline: the predictor to beat.

    Raises:
        ValueError: for fewer than three students, sequences of different lengths or an unknown baseline.
    """
    _check(predictors, truth, baseline)
    students = np.arange(len(truth))
    # the first row is the students as they are
    draws = np.random.default_rng(seed).integers(len(truth), size=(resamples, len(truth)))
    draws = np.concatenate([students[None], draws])
    columns = {name: np.asarray(values, dtype=float)[draws] for name, values in predictors.items()}
    truths = np.asarray(truth, dtype=float)[draws]
    result: dict[str, dict[str, RankCorrelation]] = {name: {} for name in columns}
    for kind, coordinates in COORDINATES.items():
        values = {name: _cosines(coordinates(column), coordinates(truths)) for name, column in columns.items()}
        for name, own in values.items():
            beyond = own - values[baseline]
            result[name][kind] = RankCorrelation(
                float(own[0]), _interval(own[1:]), float(beyond[0]), _interval(beyond[1:])
            )
    return result


def _centred_ranks(rows: np.ndarray) -> np.ndarray:
    ranks = rankdata(rows, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


def _orders_of_pairs(rows: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(rows.shape[1], k=1)
    return np.sign(rows[:, first] - rows[:, second])


# Both coefficients are cosines: Spearman's between centred ranks, Kendall's between the orders of all pairs.
COORDINATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"spearman": _centred_ranks, "kendall": _orders_of_pairs}


def _cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    with np.errstate(invalid="ignore"):
        return ((rows * others).sum(axis=1) / lengths).clip(-1, 1)  # rounding may pass one


def _interval(drawn: np.ndarray) -> Interval:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _check(predictors: Mapping[str, Sequence[float]], truth: Sequence[float], baseline: str) -> None:
    if baseline not in predictors:
        raise ValueError(f"the baseline must be one of {', '.join(predictors)}, got {baseline!r}.")
    if len(truth) < 3:
        raise ValueError(f"a rank correlation needs at least three students, got {len(truth)}.")
    for name, values in predictors.items():
        if len(values) != len(truth):
            raise ValueError(f"{name} has {len(values)} values for {len(truth)} students.")
