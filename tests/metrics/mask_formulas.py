"""Logits and masks from formulas, for the golden numbers of the official metrics and for the tests."""

from __future__ import annotations

import torch
from torch import Tensor

FRAMES, HEIGHT, WIDTH = 5, 24, 32
KINDS = ("ordinary", "partly empty", "all empty", "perfect", "wrong", "saturated", "on thresholds")


def formula_clip(kind: str, index: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and float32 0/1 masks of one clip, `(5, 24, 32)` each: a wandering disc and a noisy idea of it."""
    frame, row, column = torch.meshgrid(*map(torch.arange, (FRAMES, HEIGHT, WIDTH)), indexing="ij")
    distance = torch.hypot(row - 8.0 - frame - index, column - 6.0 - 4 * frame)
    masks = (distance < 6 + index).float()
    logits = 4 - 0.6 * torch.hypot(row - 10.0 - frame, column - 5.0 - 4 * frame)
    logits = logits + 2 * torch.sin(0.9 * row + 0.7 * column + 1.3 * frame + index)
    if kind == "partly empty":
        masks[1::2] = 0
    elif kind == "all empty":
        masks[:] = 0
    elif kind == "perfect":
        logits = 12 * masks - 6
    elif kind == "wrong":
        logits = 6 - 12 * masks
    elif kind == "saturated":
        logits = 60 * logits
    elif kind == "on thresholds":
        # sigmoids on, just below and just above i / 254
        steps = ((7 * row + 5 * column + frame) % 253 + 1) / 254 + ((row + column) % 3 - 1) * 2**-24
        logits = torch.log(steps.double() / (1 - steps.double())).float()
    return logits, masks


def formula_data_set() -> tuple[Tensor, Tensor]:
    """Nine clips, `(9, 5, 24, 32)` each: every kind, and two more ordinary ones."""
    clips = [*[formula_clip(kind) for kind in KINDS], formula_clip("ordinary", 2), formula_clip("ordinary", -3)]
    logits, masks = zip(*clips, strict=True)
    return torch.stack(logits), torch.stack(masks)
