"""What objectives on kernel Gram matrices share: the kernel, the Huber threshold and the teacher's spread as scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels import TokenKernel
from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES, Grids
from .base import check_positive
from .token_objective import GridObjective

SCALES = ("teacher_spread", "none")

# A Gram matrix whose entries deviate by less than about 1e-4 holds rounding errors of 16-bit tokens, not relations.
SMALLEST_SPREAD = 1e-8


class KernelObjective(GridObjective):
    """
    Compares Gram matrices of the teacher's and the student's tokens with the Huber loss, each branch in units of its
    scale.

    Args:
        student_grids, weight, branches: those of [`GridObjective`].
        kernel (`TokenKernel` or `dict`, *optional*):
            A dict holds the kernel's own options. `None` is the default one, which may be replaced by what validation
            chooses (`ktd_kernel="auto"`); one that is given stays.
        delta (`float`): Huber threshold.
        scale (`str`):
            `"teacher_spread"` divides each branch by the loss that the best constant matrix has on the teacher's
            own, measured by `calibrate`: a part of 1 then means no better than that constant. `"none"` does not.

    Raises:
        ValueError: for an option outside its range.
        RuntimeError: from `forward`, when a scale is needed and was not measured.
    """

    def __init__(
        self,
        student_grids: Grids,
        kernel: TokenKernel | Mapping[str, Any] | None,
        delta: float,
        weight: float,
        scale: str,
        branches: Sequence[str],
    ) -> None:
        super().__init__(student_grids, weight, branches)
        check_positive(self, delta=delta)
        if scale not in SCALES:
            raise ValueError(f"unknown scale {scale!r}; known are {', '.join(SCALES)}.")
        self.kernel_is_open = kernel is None
        self.kernel = kernel if isinstance(kernel, TokenKernel) else TokenKernel(**(kernel or {}))
        self.delta = delta
        self.scale = scale
        # NaN until measured; float32, which every accelerator has
        self.register_buffer("teacher_spread", torch.full((len(BRANCHES),), math.nan))
        self._measured: frozenset[str] = frozenset()

    @property
    def requires_calibration(self) -> bool:
        return self.scale == "teacher_spread" and any(math.isnan(spread) for spread in self._spreads().values())

    @torch.no_grad()
    def calibrate(self, signals: Iterable[TeacherSignal]) -> None:
        """
        Measures the teacher's spread per branch over all clips of `signals`. The same signals give the same scale, so
        ranks that see the same clips agree without talking.

        Raises:
            ValueError: if there are no signals, or the Gram matrices of a branch are constant.
        """
        if self.scale == "none":
            return
        samples: dict[str, list[Tensor]] = {branch: [] for branch in self.branches}
        for signal in signals:
            for branch in self.branches:
                if branch in signal.tokens:
                    samples[branch].append(self._spread_sample(branch, signal).double().cpu())
        if not any(samples.values()):
            raise ValueError(f"calibrate got no teacher tokens of {self.branches}; pass the signals of some clips.")
        for branch, values in samples.items():
            if values:
                self._set_spread(branch, self._spread_of(torch.cat(values)).item())

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "kernel": self.kernel.to_dict(),
            "delta": self.delta,
            "scale": self.scale,
            "teacher_spread": {name: None if math.isnan(x) else x for name, x in self._spreads().items()},
        }

    @abstractmethod
    def _spread_sample(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        """What one signal says about the spread of a branch, one-dimensional."""

    @abstractmethod
    def _spread_of(self, samples: Tensor) -> Tensor:
        """The spread, a scalar, from the samples of all signals, one after the other."""

    def _scaled(self, branch: str, loss: Tensor) -> Tensor:
        return loss if self.scale == "none" else loss / self._spread(branch)

    def _spreads(self) -> dict[str, float]:
        spreads = dict(zip(BRANCHES, self.teacher_spread.tolist(), strict=True))
        return {branch: spreads[branch] for branch in self.branches}

    def _spread(self, branch: str) -> Tensor:
        # Reading the buffer's values waits for the accelerator, so each branch is looked up once and remembered.
        if branch not in self._measured:
            self._measured = frozenset(name for name, spread in self._spreads().items() if not math.isnan(spread))
        if branch not in self._measured:
            raise RuntimeError(
                f"{type(self).__name__} with scale='teacher_spread' has not measured the {branch} branch. Call "
                "calibrate(signals) with the teacher's signals for some clips before training, or set scale='none'."
            )
        return self.teacher_spread[BRANCHES.index(branch)]

    def _set_spread(self, branch: str, spread: float) -> None:
        if not math.isfinite(spread):
            raise ValueError(f"the teacher's {branch} tokens of some calibration clips are NaN or infinite.")
        if spread < SMALLEST_SPREAD:
            raise ValueError(
                f"the teacher's {branch} Gram matrices are constant (spread {spread:.1e}, at least "
                f"{SMALLEST_SPREAD:.0e} is needed): there is no relation to distil. Leave {branch!r} out of "
                "`branches` or check the teacher."
            )
        self.teacher_spread[BRANCHES.index(branch)] = spread
