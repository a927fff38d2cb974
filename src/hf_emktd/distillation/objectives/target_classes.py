"""The target class of each clip, for objectives that treat it apart from the others."""

from __future__ import annotations

import torch
from torch import Tensor


def target_classes(labels: Tensor | None, logits: Tensor) -> Tensor:
    """
    Class ids int64 `(batch,)` for logits `(batch, classes)` from labels of the contract: ids, or probabilities
    `(batch, classes)` after mixup, of which the largest names the class (the first of equal ones), as in the official
    code of NKD.

    Raises:
        ValueError: if there are no labels, or they do not belong to these logits.
    """
    if labels is None:
        raise ValueError("this objective needs the labels of the clips, got None. Call it with labels=...")
    if labels.shape == logits.shape and labels.is_floating_point():
        return labels.argmax(dim=1)
    if labels.ndim != 1 or len(labels) != len(logits) or labels.is_floating_point():
        raise ValueError(
            f"labels {tuple(labels.shape)} of {labels.dtype} do not fit logits {tuple(logits.shape)}: expected int64 "
            "(batch,), or floating point probabilities (batch, classes)."
        )
    return labels


def without_target(values: Tensor, targets: Tensor) -> Tensor:
    """`(batch, classes)` -> `(batch, classes - 1)`: the values of all classes but the target, in their order."""
    others = torch.arange(values.shape[1] - 1, device=values.device).expand(len(values), -1)
    return values.gather(1, others + (others >= targets.unsqueeze(1)))
