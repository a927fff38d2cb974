"""Kernelized token distillation (KTD)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ..kernels import TokenKernel
from ..teacher import TeacherSignal
from ..token_distillation import (
    BRANCHES,
    Grids,
    gram_spread,
    pool_branch,
    sliding_windows,
    token_distillation_loss,
    token_grids,
)
from .base import DistillationObjective, check_weight

SCALES = ("teacher_spread", "none")

# A Gram matrix whose entries deviate by less than about 1e-4 holds rounding errors of 16-bit tokens, not relations.
SMALLEST_SPREAD = 1e-8


class KernelizedTokenDistillation(DistillationObjective):
    r"""
    \\(\sum_m \frac{1}{N_m^2} \sum_{ij} \mathrm{Huber}(K^T_{m,ij} - K^S_{m,ij})\\) over the branches m: audio, visual
    and fusion, with one Gram matrix per clip, mean over the batch (EM-KTD, ICLR 2026, Eq. 2). The teacher's tokens
    are average-pooled onto the student's grid where their counts differ.

    The paper's weights (333 with KD on VGGSound, 12 on AVSBench) belong to its widths and its amount of data; in a
    small run they drown the labels. So by default each branch is divided by the spread of the teacher's own Gram
    matrices: the mean over calibration clips of the loss of the best constant matrix. A part of 1 then means no
    better than that constant, and 0 the teacher's own relations, whatever the kernel, width, number of tokens and
    contrast of the branch.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`):
            By branch the grids that the student's tokens lie on: [`~distillation.token_grids`] of its config.
        kernel (`TokenKernel`, *optional*, defaults to the RBF kernel with gamma 0.5, the paper's best).
        delta (`float`, *optional*, defaults to 1.0): Huber threshold, as in the paper.
        weight (`float`, *optional*, defaults to 1.0): factor of every part, in units of `scale`.
        scale (`str`, *optional*, defaults to `"teacher_spread"`):
            `"teacher_spread"` as above, needs `calibrate`; `"none"` is the paper's plain loss.
        sliding_windows (`bool`, *optional*, defaults to `False`):
            Compare pairs inside nine overlapping windows only, 9 / 16 of the work (the paper's Appendix C).
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range.
        RuntimeError: from `forward`, when a scale is needed and was not measured.
    """

    name = "ktd"
    citation = """@inproceedings{park2026entropy,
  title={Entropy-Monitored Kernelized Token Distillation for Audio-Visual Compression},
  author={Park, Hyoungseob and Ke, Lipeng and Mohapatra, Pritish and Ying, Huajun and Venkataraman, Sankar and Wong, Alex},
  booktitle={International Conference on Learning Representations},
  year={2026},
  url={https://openreview.net/forum?id=nspzrcvzcB}
}"""  # noqa: E501
    requires_tokens = True

    def __init__(
        self,
        student_grids: Grids,
        kernel: TokenKernel | None = None,
        delta: float = 1.0,
        weight: float = 1.0,
        scale: str = "teacher_spread",
        sliding_windows: bool = False,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__()
        _check_options(student_grids, delta, scale, branches)
        check_weight(self, weight)
        self.student_grids = dict(student_grids)
        self.kernel = TokenKernel() if kernel is None else kernel
        self.delta = delta
        self.weight = weight
        self.scale = scale
        self.sliding_windows = sliding_windows
        self.branches = tuple(branch for branch in BRANCHES if branch in branches)
        self._register_windows()
        # NaN until measured; float32, which every accelerator has
        self.register_buffer("teacher_spread", torch.full((len(BRANCHES),), math.nan))
        self._measured: frozenset[str] = frozenset()

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the grids of the student's tokens."""
        return cls(token_grids(student_config), **options)

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"ktd_audio": scalar, ...}`, one for each branch of which the student returned tokens
        `(batch, tokens, width)`; `labels` are not used.
        """
        weights = self.branch_weights(teacher_signal)
        parts = {}
        for branch in self.branches:
            student_tokens = getattr(student_output, f"{branch}_tokens")
            if student_tokens is not None:
                loss = self._clip_losses(branch, student_tokens, teacher_signal)
                parts[f"{self.name}_{branch}"] = self.weight * (weights[branch] * loss if weights else loss).mean()
        if not parts:
            raise ValueError(f"the student returned no tokens of {self.branches}; call it with output_tokens=True.")
        return parts

    @property
    def requires_calibration(self) -> bool:
        return self.scale == "teacher_spread" and any(math.isnan(spread) for spread in self._spreads().values())

    @torch.no_grad()
    def calibrate(self, signals: Iterable[TeacherSignal]) -> None:
        """
        Measures the teacher's spread per branch as the mean over all clips of `signals`. The same signals give the
        same scale, so ranks that see the same clips agree without talking.

        Raises:
            ValueError: if there are no signals, or the Gram matrices of a branch are constant.
        """
        if self.scale == "none":
            return
        totals: dict[str, list[Tensor]] = {branch: [] for branch in self.branches}
        for signal in signals:
            for branch in self.branches:
                if branch in signal.tokens:
                    tokens = self._teacher_tokens(branch, signal)
                    spread = gram_spread(tokens, self.kernel, self.delta, self._windows(branch))
                    totals[branch].append(spread.double().cpu())
        for branch, spreads in totals.items():
            if spreads:
                self._set_spread(branch, torch.cat(spreads).mean().item())
        if not any(totals.values()):
            raise ValueError(f"calibrate got no teacher tokens of {self.branches}; pass the signals of some clips.")

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weight": self.weight,
            "kernel": self.kernel.to_dict(),
            "delta": self.delta,
            "scale": self.scale,
            "teacher_spread": {name: None if math.isnan(x) else x for name, x in self._spreads().items()},
            "sliding_windows": self.sliding_windows,
            "branches": list(self.branches),
        }

    def _clip_losses(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        teacher_tokens = self._teacher_tokens(branch, teacher_signal)
        loss = token_distillation_loss(student_tokens, teacher_tokens, self.kernel, self.delta, self._windows(branch))
        return loss if self.scale == "none" else loss / self._spread(branch)

    def _teacher_tokens(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        if branch not in teacher_signal.tokens:
            raise ValueError(
                f"the student returned {branch} tokens, the teacher only those of {list(teacher_signal.tokens)}. Give "
                "the teacher the same inputs, or leave the branch out of `branches`."
            )
        return pool_branch(branch, teacher_signal.tokens[branch], teacher_signal.grids, self.student_grids)

    def _register_windows(self) -> None:
        for branch in self.branches:
            windows = sliding_windows(branch, self.student_grids) if self.sliding_windows else None
            self.register_buffer(f"{branch}_windows", windows, persistent=False)

    def _windows(self, branch: str) -> Tensor | None:
        return getattr(self, f"{branch}_windows")

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
        if not spread >= SMALLEST_SPREAD:
            raise ValueError(
                f"the teacher's {branch} Gram matrices are constant (spread {spread:.1e}, at least "
                f"{SMALLEST_SPREAD:.0e} is needed): there is no relation to distil. Leave {branch!r} out of "
                "`branches` or check the teacher."
            )
        self.teacher_spread[BRANCHES.index(branch)] = spread


def _check_options(student_grids: Grids, delta: float, scale: str, branches: Sequence[str]) -> None:
    if not branches or not set(branches) <= set(BRANCHES):
        raise ValueError(f"branches must name some of {', '.join(BRANCHES)}, got {list(branches)}.")
    missing = [branch for branch in branches if not student_grids.get(branch)]
    if missing:
        raise ValueError(
            f"student_grids needs the grids of {', '.join(missing)}, got {dict(student_grids)}. Pass token_grids of "
            "the student's config."
        )
    if any(min(grid) < 1 for branch in branches for grid in student_grids[branch]):
        raise ValueError(f"student_grids needs two positive sides for each grid, got {dict(student_grids)}.")
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}.")
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; known are {', '.join(SCALES)}.")
