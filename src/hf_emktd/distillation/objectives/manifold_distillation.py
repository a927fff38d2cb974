"""Fine-grained manifold distillation (manifold KD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gathering import gathered
from ..kernels import unit_tokens
from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES, Grids
from .token_objective import GridObjective


class ManifoldDistillation(GridObjective):
    r"""
    \\(4 \, L_\mathrm{intra} + 0.1 \, L_\mathrm{inter} + 0.2 \, L_\mathrm{random}\\) over the branches: mean squared
    differences of Gram matrices of unit tokens, between the N tokens of each clip, between the B clips at each
    position, and between K tokens drawn at random from the whole batch (Hao et al., 2022; official `losses.py`).

    Of a branch the last layer is taken, where the official code has the mean over eight layers. On it the intra term
    is nearly KTD with the linear kernel: the Huber loss of a difference below 1 is half its square, so the term is
    twice that of KTD, with `scale="none"`, wherever no cosine is off by more than 1. The official loss adds logit
    distillation at temperature 1, which is `kd` here.

    The teacher's tokens are average-pooled onto the student's grid where their counts differ; the official code has,
    switched off, a merge of neighbours into longer tokens. The clips of all ranks are related with one another.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`):
            By branch the grids that the student's tokens lie on: [`~distillation.token_grids`] of its config.
        intra_weight (`float`, *optional*, defaults to 4.0): of the term inside clips; official `--w-patch`.
        inter_weight (`float`, *optional*, defaults to 0.1): of the term between clips; official `--w-sample`.
        random_weight (`float`, *optional*, defaults to 0.2): of the term on random tokens; official `--w-rand`.
        random_tokens (`int`, *optional*, defaults to 192): K; official `--K`. A smaller batch gives all it has.
        weight (`float`, *optional*, defaults to 1.0): factor of every part; official `--distillation-beta`.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range.
    """

    name = "manifold"
    compares = "pairs of tokens inside a clip, at one place of several clips, and drawn from the batch"
    source = "https://arxiv.org/abs/2107.01378"
    citation = """@inproceedings{hao2022manifold,
  title={Learning Efficient Vision Transformers via Fine-Grained Manifold Distillation},
  author={Hao, Zhiwei and Guo, Jianyuan and Jia, Ding and Han, Kai and Tang, Yehui and Zhang, Chao and Hu, Han and Wang, Yunhe},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}"""  # noqa: E501

    def __init__(
        self,
        student_grids: Grids,
        intra_weight: float = 4.0,
        inter_weight: float = 0.1,
        random_weight: float = 0.2,
        random_tokens: int = 192,
        weight: float = 1.0,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(student_grids, weight, branches)
        weights = {"intra_weight": intra_weight, "inter_weight": inter_weight, "random_weight": random_weight}
        if not min(weights.values()) >= 0 or not max(weights.values()) > 0:
            raise ValueError(f"{type(self).__name__}: weights must not be negative, and one positive, got {weights}.")
        if random_tokens < 2:
            raise ValueError(f"{type(self).__name__}: random_tokens must be at least 2, got {random_tokens}.")
        self.intra_weight = intra_weight
        self.inter_weight = inter_weight
        self.random_weight = random_weight
        self.random_tokens = random_tokens

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "intra_weight": self.intra_weight,
            "inter_weight": self.inter_weight,
            "random_weight": self.random_weight,
            "random_tokens": self.random_tokens,
        }

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        student = unit_tokens(student_tokens)
        teacher = unit_tokens(self._pooled_teacher_tokens(branch, teacher_signal))
        intra = gram_difference(student, teacher)
        student, teacher = gathered(student), gathered(teacher)
        inter = gram_difference(student.transpose(0, 1), teacher.transpose(0, 1))
        student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
        # drawn on the CPU, so that a seed means the same tokens on every device
        drawn = torch.randperm(len(student))[: self.random_tokens].to(student.device)
        random = gram_difference(student[drawn], teacher[drawn])
        return self.intra_weight * intra + self.inter_weight * inter + self.random_weight * random


def gram_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the Gram matrices of unit vectors `(..., vectors, width)`."""
    return F.mse_loss(student @ student.transpose(-1, -2), teacher @ teacher.transpose(-1, -2))
