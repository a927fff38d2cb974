"""Inputs and weights from formulas, on which the official code of related methods was run for the golden numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from formulas import formula_tensor, hashed_uniform

CLIPS, CLASSES, WIDTH = 6, 5, 7
STAGE_WIDTHS = {"student": (3, 4, 5, 6), "teacher": (4, 6, 7, 8)}
STAGE_SIDES = (16, 8, 4, 2)
FUSED_WIDTH = 8


def uniform(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    """float32 in [-scale, scale)."""
    return torch.from_numpy(scale * hashed_uniform(name, shape))


def formula_logits() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher `(CLIPS, CLASSES)` and labels."""
    student, teacher = (uniform(f"{role}.logits", CLIPS, CLASSES, scale=5) for role in ("student", "teacher"))
    return student, teacher, torch.arange(CLIPS) * 3 % CLASSES


def formula_features() -> tuple[Tensor, Tensor, Tensor]:
    """Features of student and teacher `(CLIPS, WIDTH)`, some longer on either side, and class means."""
    lengths = torch.tensor([1.0, 2.0, 0.5]).repeat(CLIPS // 3).unsqueeze(1)
    student, teacher = uniform("student.features", CLIPS, WIDTH) * lengths, uniform("teacher.features", CLIPS, WIDTH)
    return student, teacher, uniform("class_means", CLASSES, WIDTH)


def formula_pairs() -> dict[str, Tensor]:
    """By role and modality features `(CLIPS, width)`, of other widths in student and teacher."""
    return {
        f"{role}.{branch}": uniform(f"{role}.{branch}", CLIPS, width)
        for role, width in (("student", 3), ("teacher", WIDTH))
        for branch in ("audio", "visual")
    }


def formula_stages(role: str, kind: str, pictures: int) -> list[Tensor]:
    """Of each stage `(pictures, width, side, side)`."""
    return [
        uniform(f"{role}.{kind}.{stage}", pictures, width, side, side)
        for stage, (width, side) in enumerate(zip(STAGE_WIDTHS[role], STAGE_SIDES, strict=True))
    ]


def formula_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for these names and shapes."""
    return {name: formula_tensor(name, tuple(tensor.shape)) for name, tensor in state.items()}
