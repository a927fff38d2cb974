"""What objectives on the tokens of branches share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor
from transformers.utils import ModelOutput

from ..kernels import at_least_float32, autocast_disabled
from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES, Grids, grid_means, mean_of_branch, pool_branch, token_grids
from .base import DistillationObjective, check_weight


class TokenObjective(DistillationObjective):
    """
    One part for each branch, `<name>_<branch>`, of its tokens `(batch, tokens, width)`; float32 even under autocast,
    float64 for float64 tokens. A branch of which the student returns no tokens has no part.

    Args:
        weight (`float`): factor of every part.
        branches (`Sequence[str]`): those that are distilled.

    Raises:
        ValueError: for an option outside its range, or from `forward`, if one side lacks its tokens.
    """

    requires_tokens = True

    def __init__(self, weight: float, branches: Sequence[str]) -> None:
        super().__init__()
        check_weight(self, weight)
        if not branches or not set(branches) <= set(BRANCHES):
            raise ValueError(f"branches must name some of {', '.join(BRANCHES)}, got {list(branches)}.")
        self.weight = weight
        self.branches = tuple(branch for branch in BRANCHES if branch in branches)

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"<name>_audio": scalar, ...}`, one for each branch of which the student returned tokens; no labels."""
        parts = {}
        for branch in self.branches:
            tokens = getattr(student_output, f"{branch}_tokens")
            if tokens is not None:
                self._check_student_tokens(branch, tokens)
                with autocast_disabled(tokens):
                    loss = self._branch_loss(branch, at_least_float32(tokens), teacher_signal)
                parts[f"{self.name}_{branch}"] = self.weight * loss
        if not parts:
            raise ValueError(f"the student returned no tokens of {self.branches}; call it with output_tokens=True.")
        return parts

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "weight": self.weight, "branches": list(self.branches)}

    @abstractmethod
    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        """The branch's part before `weight`, a scalar."""

    def _check_student_tokens(self, branch: str, tokens: Tensor) -> None:
        """Raises `ValueError` for tokens that the objective was not made for."""

    def _teacher_tokens(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        """As the teacher returned them, without gradient, float32 or float64."""
        if branch not in teacher_signal.tokens:
            raise ValueError(
                f"the student returned {branch} tokens, the teacher only those of {list(teacher_signal.tokens)}. Give "
                "the teacher the same inputs, or leave the branch out of `branches`."
            )
        return at_least_float32(teacher_signal.tokens[branch].detach())


class GridObjective(TokenObjective):
    """
    A [`TokenObjective`] that compares tokens place by place, on the student's grids.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`):
            By branch the grids that the student's tokens lie on: [`~distillation.token_grids`] of its config.
        weight, branches: those of [`TokenObjective`].
    """

    def __init__(self, student_grids: Grids, weight: float, branches: Sequence[str]) -> None:
        super().__init__(weight, branches)
        _check_grids(student_grids, self.branches)
        self.student_grids = dict(student_grids)

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the grids of the student's tokens."""
        return cls(token_grids(student_config), **options)

    def num_tokens(self, branch: str) -> int:
        """How many tokens of a branch the student returns for a clip."""
        return sum(rows * columns for rows, columns in self.student_grids[branch])

    def _check_student_tokens(self, branch: str, tokens: Tensor) -> None:
        if tokens.shape[1] != self.num_tokens(branch):
            raise ValueError(
                f"the student returned {tokens.shape[1]} {branch} tokens, its grids {self.student_grids[branch]} have "
                f"{self.num_tokens(branch)}. Pass token_grids of the config of the student that is trained."
            )

    def _pooled_teacher_tokens(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        tokens = self._teacher_tokens(branch, teacher_signal)
        return pool_branch(branch, tokens, teacher_signal.grids, self.student_grids)

    def _mean_teacher_token(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        """`(batch, width)`: the mean over the student's grids, without their pooled tokens."""
        means, grids = teacher_signal.means.get(branch), teacher_signal.grids
        if means is None:
            means = grid_means(self._teacher_tokens(branch, teacher_signal), grids[branch])
        return mean_of_branch(branch, means, grids, self.student_grids)


def _check_grids(student_grids: Grids, branches: Sequence[str]) -> None:
    missing = [branch for branch in branches if not student_grids.get(branch)]
    if missing:
        raise ValueError(
            f"student_grids needs the grids of {', '.join(missing)}, got {dict(student_grids)}. Pass token_grids of "
            "the student's config."
        )
    if any(min(grid) < 1 for branch in branches for grid in student_grids[branch]):
        raise ValueError(f"student_grids needs two positive sides for each grid, got {dict(student_grids)}.")
