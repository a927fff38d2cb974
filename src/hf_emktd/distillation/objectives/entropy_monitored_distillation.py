"""Entropy-monitored kernelized token distillation (EM-KTD)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..entropy_monitor import entropy_weights
from ..teacher import TeacherSignal
from .kernelized_token_distillation import KernelizedTokenDistillation


class EntropyMonitoredDistillation(KernelizedTokenDistillation):
    r"""
    [`KernelizedTokenDistillation`] in which each clip's branch m counts \\(w_m = \exp(-\lambda H_m)\\), with \\(H_m\\)
    the entropy of the teacher's monitor (EM-KTD, ICLR 2026): a branch in which the teacher sees nothing, such as noise
    or a covered picture, is not worth copying.

    Weights are at most 1, so the whole counts less than KTD at equal `weight`; the paper doubles it (666 against 333).

    Args:
        entropy_lambda (`float`, *optional*, defaults to 0.5):
            \\(\lambda\\) per nat. Not given in the paper; see [`~distillation.entropy_weights`]. 0 gives KTD.
        kwargs: those of [`KernelizedTokenDistillation`].

    Raises:
        ValueError: if `entropy_lambda` is negative, or from `forward`, if the teacher signal has no entropies.
    """

    name = "em_ktd"
    requires_entropies = True

    def __init__(self, *args: Any, entropy_lambda: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not entropy_lambda >= 0:
            raise ValueError(f"entropy_lambda must not be negative, got {entropy_lambda}.")
        self.entropy_lambda = entropy_lambda

    def branch_weights(self, teacher_signal: TeacherSignal) -> dict[str, Tensor]:
        """By branch, \\(w_m\\) of each clip, `(batch,)`."""
        missing = [
            name for name in self.branches if name in teacher_signal.tokens and name not in teacher_signal.entropies
        ]
        if missing:
            raise ValueError(
                f"the teacher signal has no entropies of {', '.join(missing)}. Give LiveTeacher an EntropyMonitor "
                "trained on the teacher."
            )
        entropies = {
            branch: teacher_signal.entropies[branch] for branch in self.branches if branch in teacher_signal.tokens
        }
        return entropy_weights(entropies, self.entropy_lambda)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"entropy_lambda": self.entropy_lambda}
