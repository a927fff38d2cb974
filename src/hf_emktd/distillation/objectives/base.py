"""What every distillation objective is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..teacher import TeacherSignal
from ..token_codes import TOKENS


class DistillationObjective(nn.Module, ABC):
    """
    A named part, or several, of the student's loss that a teacher's signal defines.

    An objective may have parameters, such as a projection. The trainer trains them with the student's optimiser and
    keeps them in its checkpoints; they are never part of the student.

    Class attributes:

    - **name** (`str`) -- The key of the objective in `OBJECTIVES` and the prefix of its parts.
    - **compares** (`str`) -- What of the teacher and the student, in one line for `list_objectives`.
    - **source** (`str`) -- The paper's address, or its name where it has none.
    - **citation** (`str`) -- BibTeX for the model card.
    - **reads** (`str`) -- The most it reads of the teacher, where options decide with the default ones
      (`reads_with`); by it a teacher cache can serve the objective or cannot:
      `"logits"`; `"relations"`, how tokens of one clip lie to each other and how long they are, in any basis;
      `"means"`, the mean token of each grid; `"tokens"`, also beside another clip's or projected; `"stages"`
      of a picture encoder.
    - **requires_tokens** (`bool`) -- Whether the student must return its tokens.
    - **requires_entropies** (`bool`) -- Whether the teacher needs an entropy monitor.
    - **calibration_clips** (`int`) -- Least number of clips that `calibrate` wants to see.
    """

    name: ClassVar[str]
    compares: ClassVar[str]
    source: ClassVar[str]
    citation: ClassVar[str]
    reads: str = TOKENS
    requires_tokens: ClassVar[bool] = False
    requires_entropies: ClassVar[bool] = False
    calibration_clips: int = 0

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """
        An objective for this pair of models; `options` are the constructor's. Overridden by those that need to know
        grids, widths or classes, which every config of the output contract has.
        """
        return cls(**options)

    @classmethod
    def reads_with(cls, **options: Any) -> str:
        """What `reads` is of an objective that is made with these options of the constructor."""
        return cls.reads

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
        """
        Measures what the objective needs to know of the teacher on its signals for some clips, before training. The
        signals carry their `labels`.
        """

    def branch_weights(self, teacher_signal: TeacherSignal) -> dict[str, Tensor]:
        """By branch, the weight `(batch,)` of each clip; empty when clips are not weighted."""
        return {}


def check_weight(objective: DistillationObjective, weight: float) -> None:
    """Raises `ValueError` for a weight that is not positive and finite: one that counts nothing is better left out."""
    if not 0 < weight < math.inf:
        raise ValueError(
            f"{type(objective).__name__}: weight must be positive and finite, got {weight}. Leave the objective out "
            "to switch it off."
        )


def check_positive(objective: DistillationObjective, **constants: float) -> None:
    """Raises `ValueError` for the first constant that is not positive and finite, by its name."""
    for name, value in constants.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{type(objective).__name__}: {name} must be positive and finite, got {value}.")
