"""What is measured of an entropy monitor's probes on a split."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def clip_statistics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """`accuracy` of logits `(clips, classes)` against labels `(clips,)`."""
    return {"accuracy": (logits.argmax(dim=-1) == labels).double().mean().item()}


def mask_statistics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """
    Of logits and shares of sounding pixels, both `(frames, 1, rows, columns)`, each position sounding from 0.5 on:
    `accuracy`, the share of positions that are right, and `iou`, the intersection over the union of the whole split's
    positions; 1 where neither side has any.
    """
    found, true = logits >= 0, targets >= 0.5
    union = (found | true).sum().item()
    return {
        "accuracy": (found == true).double().mean().item(),
        "iou": (found & true).sum().item() / union if union else 1.0,
    }


def entropy_statistics(entropies: Tensor) -> dict[str, float | list[float]]:
    """Mean, deviation and quartiles of entropies `(clips,)`."""
    entropies = entropies.numpy()
    return {
        "entropy_mean": float(entropies.mean()),
        "entropy_std": float(entropies.std()),
        "entropy_quartiles": [float(quartile) for quartile in np.quantile(entropies, [0.25, 0.5, 0.75])],
    }
