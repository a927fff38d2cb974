"""Learned maps between the widths of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn


def width_projections(
    branches: Sequence[str], student_widths: Mapping[str, int], teacher_widths: Mapping[str, int]
) -> nn.ModuleDict:
    """
    By branch a linear map without bias from the student's width to the teacher's; nothing to learn where they are
    equal.

    Raises:
        ValueError: if the width of a branch is missing.
    """
    check_widths(branches, student_widths=student_widths, teacher_widths=teacher_widths)
    pairs = {branch: (student_widths[branch], teacher_widths[branch]) for branch in branches}
    return nn.ModuleDict(
        {
            branch: nn.Identity() if student == teacher else nn.Linear(student, teacher, bias=False)
            for branch, (student, teacher) in pairs.items()
        }
    )


def check_widths(branches: Sequence[str], **widths_of: Mapping[str, int]) -> None:
    """Raises `ValueError` for the first of the mappings, such as `student_widths=...`, that lacks a branch."""
    for name, widths in widths_of.items():
        missing = [branch for branch in branches if not widths.get(branch)]
        if missing:
            raise ValueError(
                f"{name} needs the widths of {', '.join(missing)}, got {dict(widths)}. Pass branch_widths of the "
                "model's config."
            )
