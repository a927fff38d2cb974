"""Whether entropies know which clips a branch gets wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from .monitor_readings import Readings, mean_score


@dataclass(frozen=True)
class EntropyBin:
    """
    Clips of similar entropy in one branch.

    Args:
        low, high: the least and the largest of their entropies in nats.
        clips: how many.
        entropy, weight: their means.
        probe_score, teacher_score: mean accuracy, or MJ, of the branch's probe and of the teacher.
    """

    low: float
    high: float
    clips: int
    entropy: float
    weight: float
    probe_score: float
    teacher_score: float


def entropy_bins(readings: Readings, entropy_lambda: float, bins: int = 10) -> dict[str, list[EntropyBin]]:
    """
    By branch the clips in order of their entropy, cut into bins of equally many.

    Raises:
        ValueError: for more bins than clips.
    """
    if bins > len(readings.teacher_scores):
        raise ValueError(f"{len(readings.teacher_scores)} clips do not fill {bins} bins; ask for fewer.")
    weights = readings.weights(entropy_lambda)
    return {
        branch: [
            EntropyBin(
                low=float(entropies[clips[0]]),
                high=float(entropies[clips[-1]]),
                clips=len(clips),
                entropy=float(entropies[clips].mean()),
                weight=float(weights[branch][clips].mean()),
                probe_score=mean_score(readings.probe_scores[branch][clips]),
                teacher_score=mean_score(readings.teacher_scores[clips]),
            )
            for clips in np.array_split(entropies.argsort(kind="stable"), bins)
        ]
        for branch, entropies in readings.entropies.items()
    }


def rank_correlations(readings: Readings) -> dict[str, float | None]:
    """
    By branch Spearman's correlation of entropy and the probe's score over clips: negative where entropy knows which
    clips the branch gets wrong. `None` where all scores are equal.
    """
    return {
        branch: _rank_correlation(value, readings.probe_scores[branch]) for branch, value in readings.entropies.items()
    }


def _rank_correlation(entropies: np.ndarray, scores: np.ndarray) -> float | None:
    known = ~np.isnan(scores)
    if min(len(np.unique(values[known])) for values in (entropies, scores)) < 2:
        return None
    return float(spearmanr(entropies[known], scores[known]).statistic)
