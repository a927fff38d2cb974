"""How entropies follow a corruption of known strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from ..distillation.teacher import LiveTeacher
from .corruptions import SoundNoise, cover_pictures
from .monitor_readings import Change, Readings, mean_score, read_monitor

COVERED_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SNRS_DB = (30.0, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0, -20.0)


@dataclass(frozen=True)
class Level:
    """
    One strength of a corruption.

    Args:
        value: share of the picture covered, or signal-to-noise ratio in decibels.
        weights: by branch the mean.
        quartiles: by branch the first and third quartile of the weights.
        entropies, probe_scores: by branch the mean.
        teacher_score: the mean.
    """

    value: float
    weights: dict[str, float]
    quartiles: dict[str, tuple[float, float]]
    entropies: dict[str, float]
    probe_scores: dict[str, float]
    teacher_score: float


def sweep_covers(
    teacher: LiveTeacher,
    views: datasets.Dataset,
    entropy_lambda: float,
    shares: Sequence[float] = COVERED_SHARES,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Level]:
    """Means with the picture covered to each share, see [`cover_pictures`]; sound as it is."""

    def change(share: float) -> Change:
        return lambda batch, first: batch | {"pixel_values": cover_pictures(batch["pixel_values"], share, seed, first)}

    readings = read_monitor(teacher, views, batch_size, list(map(change, shares)), "Covered pictures")
    return [_level(share, one, entropy_lambda) for share, one in zip(shares, readings, strict=True)]


def sweep_noise(
    teacher: LiveTeacher,
    views: datasets.Dataset,
    entropy_lambda: float,
    noise: SoundNoise,
    snrs_db: Sequence[float] = SNRS_DB,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Level]:
    """Means with white noise in the sound at each ratio, see [`SoundNoise`]; picture as it is."""

    def change(snr_db: float) -> Change:
        return lambda batch, first: batch | {"input_values": noise.add(batch["input_values"], snr_db, seed, first)}

    readings = read_monitor(teacher, views, batch_size, list(map(change, snrs_db)), "Drowned sounds")
    return [_level(snr_db, one, entropy_lambda) for snr_db, one in zip(snrs_db, readings, strict=True)]


def _level(value: float, readings: Readings, entropy_lambda: float) -> Level:
    weights = readings.weights(entropy_lambda)
    return Level(
        value=value,
        weights={branch: float(weight.mean()) for branch, weight in weights.items()},
        quartiles={branch: tuple(map(float, np.quantile(weight, (0.25, 0.75)))) for branch, weight in weights.items()},
        entropies={branch: float(entropy.mean()) for branch, entropy in readings.entropies.items()},
        probe_scores={branch: mean_score(score) for branch, score in readings.probe_scores.items()},
        teacher_score=mean_score(readings.teacher_scores),
    )
