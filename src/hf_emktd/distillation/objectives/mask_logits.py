"""Logits of masks, for objectives that compare them."""

from __future__ import annotations

from torch import Tensor


def check_masks(student: Tensor, teacher: Tensor) -> None:
    """Raises `ValueError` unless both are logits `(batch, frames, height, width)` of the same clips and frames."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} must be masks "
            "(batch, frames, height, width) of the same clips and frames."
        )
