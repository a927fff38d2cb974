"""Weights of clips by the entropy of the teacher's monitor."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..entropy_monitor import entropy_weights
from ..teacher import TeacherSignal
from .base import DistillationObjective


class EntropyWeighting(DistillationObjective):
    r"""
    Gives an objective that knows its `branches` the weights \\(w_m = \exp(-\lambda H_m)\\) of each clip, with
    \\(H_m\\) the entropy of the teacher's monitor. Stands before the objective's own class:
    `class Monitored(EntropyWeighting, Plain)`.

    Args:
        entropy_lambda (`float`, *optional*, defaults to 0.5):
            \\(\lambda\\) per nat. Not given in the paper; see [`~distillation.entropy_weights`]. 0 gives weight 1.
        args, kwargs: those of the objective.

    Raises:
        ValueError: if `entropy_lambda` is negative, or from `forward`, if the teacher signal has no entropies.
    """

    requires_entropies = True
    branches: tuple[str, ...]

    def __init__(self, *args: Any, entropy_lambda: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= entropy_lambda < math.inf:
            raise ValueError(f"entropy_lambda must not be negative, and finite, got {entropy_lambda}.")
        self.entropy_lambda = entropy_lambda

    def branch_weights(self, teacher_signal: TeacherSignal) -> dict[str, Tensor]:
        """By branch, \\(w_m\\) of each clip, `(batch,)`."""
        seen = [branch for branch in self.branches if branch in teacher_signal.tokens]
        missing = [branch for branch in seen if branch not in teacher_signal.entropies]
        if missing:
            raise ValueError(
                f"the teacher signal has no entropies of {', '.join(missing)}. Give LiveTeacher an EntropyMonitor "
                "trained on the teacher."
            )
        return entropy_weights({branch: teacher_signal.entropies[branch] for branch in seen}, self.entropy_lambda)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"entropy_lambda": self.entropy_lambda}
