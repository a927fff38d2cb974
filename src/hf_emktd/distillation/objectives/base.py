"""What every distillation objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..teacher import TeacherSignal


class DistillationObjective(nn.Module, ABC):
    """
    A named part, or several, of the student's loss that a teacher's signal defines. Objectives have no parameters.

    Class attributes:

    - **name** (`str`) -- The key of the objective in `OBJECTIVES` and the prefix of its parts.
    - **citation** (`str`) -- BibTeX for the model card.
    - **requires_tokens** (`bool`) -- Whether the student must return its tokens.
    - **requires_entropies** (`bool`) -- Whether the teacher needs an entropy monitor.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    requires_tokens: ClassVar[bool] = False
    requires_entropies: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalar parts, already weighted; the training loss is their sum."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Name, constants and weights as plain values, for the model card."""

    @property
    def requires_calibration(self) -> bool:
        """Whether `calibrate` has to be called before `forward`."""
        return False

    def calibrate(self, signals: Iterable[TeacherSignal]) -> None:
        """Measures what the objective's scale needs on the teacher's signals for some clips, before training."""

    def branch_weights(self, teacher_signal: TeacherSignal) -> dict[str, Tensor]:
        """By branch, the weight `(batch,)` of each clip; empty when clips are not weighted."""
        return {}


def check_weight(objective: DistillationObjective, weight: float) -> None:
    """Raises `ValueError` for a weight that is not positive: an objective that counts nothing is better left out."""
    if not weight > 0:
        raise ValueError(
            f"{type(objective).__name__}: weight must be positive, got {weight}. Leave the objective out to switch it "
            "off."
        )
