"""Kernelized distillation of the relations between clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gathering import gathered
from ..kernels import TokenKernel, unit_tokens
from ..teacher import TeacherSignal
from ..token_codes import MEANS, TOKENS
from ..token_distillation import BRANCHES, Grids
from .kernel_objective import KernelObjective
from .kernelized_token_distillation import KernelizedTokenDistillation

POOLINGS = ("mean", "flatten")


class ClipRelationDistillation(KernelObjective):
    r"""
    \\(\frac{1}{B (B - 1)} \sum_{i \ne j} \mathrm{Huber}(K^T_{m,ij} - K^S_{m,ij})\\) over the branches m, with the
    Gram matrices \\(K_{m,ij} = k(x_{m,i}, x_{m,j})\\) between the B clips of a batch: kernel and Huber loss of
    [`KernelizedTokenDistillation`], which compares the tokens inside a clip, on one unit vector \\(x_{m,i}\\) per clip
    and branch. Not part of the EM-KTD paper. Unlike SPKD it relates directions, so the length of a clip's tokens plays
    no part, and its kernel and its scale are those of KTD.

    Pairs of a clip with itself are left out: every kernel gives them the same value whatever the vectors, and their
    share of a matrix, 1 / B, would make loss and scale depend on the size of the batch. A batch of one clip has the
    loss 0. The clips of all ranks are related with one another.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`):
            By branch the grids that the student's tokens lie on: [`~distillation.token_grids`] of its config.
        kernel (`TokenKernel` or `dict`, *optional*, defaults to the RBF kernel with gamma 0.5, as in KTD).
        delta (`float`, *optional*, defaults to 1.0): Huber threshold, as in KTD.
        weight (`float`, *optional*, defaults to 1.0): factor of every part, in units of `scale`.
        scale (`str`, *optional*, defaults to `"teacher_spread"`):
            `"teacher_spread"` divides each branch by the loss that the best constant matrix has on the teacher's own
            relations, measured by `calibrate` on the pairs inside its signals; `"none"` does not. An untrained
            student, to whom all clips are alike, starts above 1.
        pooling (`str`, *optional*, defaults to `"mean"`):
            What becomes of a clip's tokens, the teacher's pooled onto the student's grids. `"mean"`: their mean, what
            a head on pooled tokens sees. `"flatten"`: one behind the other, so that clips are similar when they are so
            place by place, as in SPKD.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range.
        RuntimeError: from `forward`, when a scale is needed and was not measured.
    """

    name = "clip_ktd"
    compares = "pairs of clips of the batch, by a kernel on pooled tokens"
    source = "this library"
    reads = MEANS
    citation = KernelizedTokenDistillation.citation

    def __init__(
        self,
        student_grids: Grids,
        kernel: TokenKernel | Mapping[str, Any] | None = None,
        delta: float = 1.0,
        weight: float = 1.0,
        scale: str = "teacher_spread",
        pooling: str = "mean",
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(student_grids, kernel, delta, weight, scale, branches)
        if pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {pooling!r}; known are {', '.join(POOLINGS)}.")
        self.pooling = pooling
        self.reads = self.reads_with(pooling=pooling)

    @classmethod
    def reads_with(cls, *, pooling: str = "mean", **options: Any) -> str:
        """Means where tokens are pooled to them, all tokens where they are flattened."""
        return MEANS if pooling == "mean" else TOKENS

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"pooling": self.pooling}

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        vectors = (self._teacher_vectors(branch, teacher_signal), self._vectors(student_tokens))
        teacher, student = (self._relations(gathered(clips)) for clips in vectors)
        dtype = torch.promote_types(student.dtype, teacher.dtype)  # huber_loss has no gradient for two
        losses = F.huber_loss(student.to(dtype), teacher.to(dtype), reduction="none", delta=self.delta)
        weights = self.branch_weights(teacher_signal).get(branch)
        if weights is not None:
            weights = gathered(weights)
            losses = off_diagonal(weights.outer(weights)) * losses
        return self._scaled(branch, losses.sum() / max(losses.numel(), 1))

    def _spread_sample(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        return self._relations(self._teacher_vectors(branch, teacher_signal))

    def _spread_of(self, samples: Tensor) -> Tensor:
        if not len(samples):
            raise ValueError("calibrate got signals of one clip each; relations between clips need batches of two.")
        return F.huber_loss(samples, samples.mean().expand_as(samples), delta=self.delta)

    def _teacher_vectors(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        if self.pooling == "mean":
            return self._mean_teacher_token(branch, teacher_signal)
        return self._vectors(self._pooled_teacher_tokens(branch, teacher_signal))

    def _vectors(self, tokens: Tensor) -> Tensor:
        """`(batch, tokens, width)` -> one vector per clip."""
        return tokens.mean(dim=1) if self.pooling == "mean" else tokens.flatten(1)

    def _relations(self, clips: Tensor) -> Tensor:
        """Kernel values of all pairs of different `clips` `(clips, width)`: `(clips * (clips - 1),)`."""
        return off_diagonal(self.kernel.of_unit_tokens(unit_tokens(clips)))


def off_diagonal(matrix: Tensor) -> Tensor:
    """Entries of a square matrix `(n, n)` without its diagonal, row by row: `(n * (n - 1),)`."""
    count = len(matrix)
    return matrix.flatten()[1:].view(count - 1, count + 1)[:, :-1].flatten()
