"""Which classes a student does better or worse than its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clip_scores import ClipScores


@dataclass(frozen=True)
class ClassChange:
    """
    A class with at least one clip.

    Args:
        label: its name.
        clips: how many it has.
        student, teacher: shares of them that are recognised.
    """

    label: str
    clips: int
    student: float
    teacher: float

    @property
    def change(self) -> float:
        """Gain over the teacher; a loss is negative."""
        return self.student - self.teacher


def class_changes(scores: ClipScores, label_names: Sequence[str]) -> list[ClassChange]:
    """Of every class that occurs, the largest gain first; of equal ones that with more clips."""
    changes = []
    for index in np.unique(scores.labels):
        members = scores.labels == index
        changes.append(
            ClassChange(
                label_names[index],
                int(members.sum()),
                float(scores.student_scores[members].mean()),
                float(scores.teacher_scores[members].mean()),
            )
        )
    return sorted(changes, key=lambda one: (-one.change, -one.clips))
