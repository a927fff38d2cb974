"""The estimators of mutual information against cases in which it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import logsumexp

from .held_out_bounds import held_out_information, held_out_label_information
from .nearest_neighbours import neighbour_information, neighbour_label_information

CORRELATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NOISES = (0.8, 0.4, 0.2)
DISTANCES = (1.0, 2.0, 4.0)
DIMENSIONS = 4
CLASSES = 10
TRUTH_SAMPLES = 100_000

Sample = tuple[np.ndarray, np.ndarray]
Estimator = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Check:
    """
    One case: mean estimates over several samples, in nats, beside the truth.

    Args:
        case: what was drawn.
        parameter: of the case, as text.
        truth: in nats.
        estimates: by estimator, the mean over the samples.
        deviations: by estimator, the standard deviation between the samples.
    """

    case: str
    parameter: str
    truth: float
    estimates: dict[str, float]
    deviations: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Estimate over truth, by estimator."""
        return {name: value / self.truth for name, value in self.estimates.items()}


def check_gaussians(
    correlations: Sequence[float] = CORRELATIONS, clips: int = 2000, samples: int = 3, seed: int = 0
) -> Iterator[Check]:
    """
    Joint Gaussians: four pairs of variables, each pair of one correlation, on each side turned and stretched into a
    space of their own, which changes no mutual information. One [`Check`] a correlation, as soon as it is done.
    """
    for correlation in correlations:
        truth = -DIMENSIONS / 2 * np.log1p(-(correlation**2))
        draw = partial(gaussian_sample, correlation, clips)
        yield _check(
            "joint Gaussian", f"correlation {correlation:g}", truth, draw, _pair_estimators(seed), samples, seed
        )


def check_uniforms(
    noises: Sequence[float] = NOISES, clips: int = 2000, samples: int = 3, seed: int = 0
) -> Iterator[Check]:
    """
    The same with uniform variables and uniform noise: a check that owes nothing to being Gaussian, and the hard kind,
    since densities end abruptly.
    """
    for noise in noises:
        truth = DIMENSIONS * (noise / 2 - np.log(noise))
        draw = partial(uniform_sample, noise, clips)
        yield _check("uniform noise", f"width {noise:g}", truth, draw, _pair_estimators(seed), samples, seed)


def check_classes(
    distances: Sequence[float] = DISTANCES, clips: int = 2000, samples: int = 3, seed: int = 0
) -> Iterator[Check]:
    """
    Ten classes of Gaussians in four dimensions, whose means lie about as far apart as `distances` in units of their
    deviation.
    """
    for distance in distances:
        means = distance * np.random.default_rng(seed).standard_normal((CLASSES, DIMENSIONS)) / np.sqrt(2 * DIMENSIONS)
        truth = class_information(means, np.random.default_rng(seed))
        draw = partial(class_sample, means, clips)
        yield _check("classes", f"distance {distance:g}", truth, draw, _label_estimators(seed), samples, seed)


def gaussian_sample(correlation: float, clips: int, random: np.random.Generator) -> Sample:
    """Two sides `(clips, 4)` of a joint Gaussian."""
    first = random.standard_normal((clips, DIMENSIONS))
    second = correlation * first + np.sqrt(1 - correlation**2) * random.standard_normal((clips, DIMENSIONS))
    return first @ _mixing(random), second @ _mixing(random)


def uniform_sample(noise: float, clips: int, random: np.random.Generator) -> Sample:
    """Uniform variables, and the same plus uniform noise of that width: two sides `(clips, 4)`."""
    first = random.uniform(size=(clips, DIMENSIONS))
    second = first + noise * random.uniform(size=(clips, DIMENSIONS))
    return first @ _mixing(random), second @ _mixing(random)


def class_sample(means: np.ndarray, clips: int, random: np.random.Generator) -> Sample:
    """Vectors `(clips, dimensions)` around the mean of their class, and classes `(clips,)`."""
    labels = random.integers(len(means), size=clips)
    return means[labels] + random.standard_normal((clips, means.shape[1])), labels


def class_information(means: np.ndarray, random: np.random.Generator) -> float:
    """Information in nats of a vector about its class: the mean over so many samples that 0.01 is certain."""
    vectors, labels = class_sample(means, TRUTH_SAMPLES, random)
    likelihoods = -0.5 * ((vectors[:, None] - means) ** 2).sum(axis=-1)
    own = likelihoods[np.arange(len(labels)), labels]
    return float((own - logsumexp(likelihoods, axis=1)).mean() + np.log(len(means)))


def _mixing(random: np.random.Generator) -> np.ndarray:
    """Turned and stretched by up to two."""
    left, right = (np.linalg.qr(random.standard_normal((DIMENSIONS, DIMENSIONS)))[0] for _ in range(2))
    return left * random.uniform(1, 2, DIMENSIONS) @ right


def _pair_estimators(seed: int) -> dict[str, Estimator]:
    return {
        "nearest neighbours": lambda first, second: neighbour_information(first, second, DIMENSIONS, seed=seed).nats,
        "learned bound": lambda first, second: held_out_information(first, second, seed).nats,
    }


def _label_estimators(seed: int) -> dict[str, Estimator]:
    return {
        "nearest neighbours": lambda vectors, labels: neighbour_label_information(vectors, labels, DIMENSIONS).nats,
        "learned bound": lambda vectors, labels: held_out_label_information(vectors, labels, seed).nats,
    }


def _check(
    case: str,
    parameter: str,
    truth: float,
    draw: Callable[[np.random.Generator], Sample],
    estimators: dict[str, Estimator],
    samples: int,
    seed: int,
) -> Check:
    drawn = [draw(np.random.default_rng([seed, index])) for index in range(samples)]
    values = {name: [estimate(*sample) for sample in drawn] for name, estimate in estimators.items()}
    means = {name: float(np.mean(found)) for name, found in values.items()}
    return Check(case, parameter, float(truth), means, {name: float(np.std(found)) for name, found in values.items()})
