"""Kernelized token distillation (KTD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..kernels import TokenKernel
from ..teacher import TeacherSignal
from ..token_codes import RELATIONS
from ..token_distillation import BRANCHES, Grids, gram_spread, sliding_windows, token_distillation_loss
from .kernel_objective import KernelObjective


class KernelizedTokenDistillation(KernelObjective):
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
        kernel (`TokenKernel` or `dict`, *optional*, defaults to the RBF kernel with gamma 0.5, the paper's best).
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
    compares = "pairs of tokens inside a clip, by a kernel"
    source = "https://openreview.net/forum?id=nspzrcvzcB"
    reads = RELATIONS
    citation = """@inproceedings{park2026entropy,
  title={Entropy-Monitored Kernelized Token Distillation for Audio-Visual Compression},
  author={Park, Hyoungseob and Ke, Lipeng and Mohapatra, Pritish and Ying, Huajun and Venkataraman, Sankar and Wong, Alex},
  booktitle={International Conference on Learning Representations},
  year={2026},
  url={https://openreview.net/forum?id=nspzrcvzcB}
}"""  # noqa: E501

    def __init__(
        self,
        student_grids: Grids,
        kernel: TokenKernel | Mapping[str, Any] | None = None,
        delta: float = 1.0,
        weight: float = 1.0,
        scale: str = "teacher_spread",
        sliding_windows: bool = False,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(student_grids, kernel, delta, weight, scale, branches)
        self.sliding_windows = sliding_windows
        self._register_windows()

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"sliding_windows": self.sliding_windows}

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        teacher_tokens = self._pooled_teacher_tokens(branch, teacher_signal)
        loss = token_distillation_loss(student_tokens, teacher_tokens, self.kernel, self.delta, self._windows(branch))
        weights = self.branch_weights(teacher_signal).get(branch)
        return self._scaled(branch, loss if weights is None else weights * loss).mean()

    def _spread_sample(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        tokens = self._pooled_teacher_tokens(branch, teacher_signal)
        return gram_spread(tokens, self.kernel, self.delta, self._windows(branch))

    def _spread_of(self, samples: Tensor) -> Tensor:
        return samples.mean()

    def _register_windows(self) -> None:
        for branch in self.branches:
            windows = sliding_windows(branch, self.student_grids) if self.sliding_windows else None
            self.register_buffer(f"{branch}_windows", windows, persistent=False)

    def _windows(self, branch: str) -> Tensor | None:
        return getattr(self, f"{branch}_windows")
