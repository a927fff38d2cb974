"""Fewer and well-behaved dimensions of vectors, without a look at what they are compared with."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

# What varies by a smaller share of its size, or of the largest direction's, is rounding of float32.
SMALLEST_SHARE = 1e-6


def principal_components(vectors: np.ndarray, count: int) -> np.ndarray:
    """
    `(clips, width)` -> the first principal components of the standardised columns, float64 `(clips, components)`, each
    of mean 0 and variance 1; fewer than `count` where the vectors span fewer directions. Columns are standardised
    because transformers have a few of enormous size that mean little.

    Raises:
        ValueError: if a value is not finite, or all clips have the same vector.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise ValueError("some tokens are infinite or NaN: the model has diverged or a clip's inputs are broken.")
    centred = vectors - vectors.mean(axis=0)
    deviations = centred.std(axis=0)
    varying = deviations > SMALLEST_SHARE * np.abs(vectors).max(axis=0)
    if not varying.any():
        raise ValueError(f"all {len(vectors)} clips have the same vector: a representation that tells nothing apart.")
    left, sizes, _ = np.linalg.svd(centred[:, varying] / deviations[varying], full_matrices=False)
    kept = min(count, int((sizes > SMALLEST_SHARE * sizes[0]).sum()))
    return left[:, :kept] * np.sqrt(len(vectors))


def normal_scores(points: np.ndarray) -> np.ndarray:
    """
    Each column's ranks as quantiles of a standard normal distribution, `(clips, columns)`; ties in order. A monotone
    change of each coordinate leaves mutual information as it is, and distances become comparable.
    """
    ranks = points.argsort(axis=0, kind="stable").argsort(axis=0)
    return ndtri((ranks + 0.5) / len(points))
