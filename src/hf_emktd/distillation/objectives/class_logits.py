"""Logits of classes, and the target among them, for objectives that treat it apart from the others."""

from __future__ import annotations

import torch
from torch import Tensor


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raises `ValueError` unless both are logits `(batch, classes)` of the same clips and classes."""
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} must be (batch, "
            "classes) of the same clips and the same classes."
        )


def target_classes(labels: Tensor | None, num_classes: int) -> Tensor:
    """
    Class ids int64 `(batch,)` from labels of the contract: ids, or floating point `(batch, classes)` after mixup, of
    which the largest names the class (the first of equal ones), as in the official code of NKD.

    Raises:
        ValueError: if there are no labels, or they are of another form.
    """
    if labels is None:
        raise ValueError("this objective needs the labels of the clips, got None. Call it with labels=...")
    soft = labels.is_floating_point()
    if labels.ndim != 1 + soft or (soft and labels.shape[1] != num_classes):
        raise ValueError(
            f"labels {tuple(labels.shape)} of {labels.dtype} are neither int64 (batch,) nor floating point "
            f"(batch, {num_classes})."
        )
    return labels.argmax(dim=1) if soft else labels


def without_target(values: Tensor, targets: Tensor) -> Tensor:
    """
    `(batch, classes)` -> `(batch, classes - 1)`: the values of all classes but the target, in their order.

    Raises:
        ValueError: if there is one class alone.
    """
    if values.shape[1] < 2:
        raise ValueError("this objective compares the classes beside the target, but there is one class alone.")
    others = torch.arange(values.shape[1] - 1, device=values.device).expand(len(values), -1)
    return values.gather(1, others + (others >= targets.unsqueeze(1)))
