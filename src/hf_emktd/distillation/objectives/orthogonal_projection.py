"""Distillation through an orthogonal projection (VkD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES
from .projections import check_widths
from .token_objective import TokenObjective


class OrthogonalProjection(TokenObjective):
    r"""
    Smooth L1 between \\(P \bar z^S\\) and \\(\mathrm{LayerNorm}(\bar z^T)\\), mean over the batch and the teacher's
    width, where \\(\bar z\\) is the mean of a branch's tokens, the LayerNorm has no parameters and P is a trained
    linear map with \\(P^\top P = I\\), or \\(P P^\top = I\\) for a student wider than its teacher (VkD, Miles et al.,
    2024; official `engine.py` and `train.py`). An orthogonal map keeps the relations between student features as they
    are, so it cannot learn in the student's place. Weight decay draws it to where it started.

    The official loss adds logit distillation at temperature 1 on a distillation head of its own; here that term is
    `kd`, on the student's only head: `--objective vkd kd --kd_temperature 1`. The paper's whitening of the target is
    for generative tasks and is not offered.

    Args:
        student_widths (`dict[str, int]`): by branch the width of the student's tokens, `branch_widths` of its config.
        teacher_widths (`dict[str, int]`): the same of the teacher.
        weight (`float`, *optional*, defaults to 1.0): factor of every part; alpha of the official code.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range, or a branch without a width.
    """

    name = "vkd"
    compares = "pooled tokens, the student's after an orthogonal map"
    source = "https://arxiv.org/abs/2403.06213"
    citation = """@inproceedings{miles2024vkd,
  title={{VkD}: Improving Knowledge Distillation using Orthogonal Projections},
  author={Miles, Roy and Elezi, Ismail and Deng, Jiankang},
  booktitle={Conference on Computer Vision and Pattern Recognition},
  year={2024}
}"""

    def __init__(
        self,
        student_widths: Mapping[str, int],
        teacher_widths: Mapping[str, int],
        weight: float = 1.0,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(weight, branches)
        check_widths(self.branches, student_widths=student_widths, teacher_widths=teacher_widths)
        self.projections = nn.ModuleDict(
            {branch: orthogonal_map(student_widths[branch], teacher_widths[branch]) for branch in self.branches}
        )

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the widths of both models' tokens."""
        return cls(student_config.branch_widths, teacher_config.branch_widths, **options)

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        teacher = self._teacher_tokens(branch, teacher_signal).mean(dim=1)
        student = self.projections[branch](student_tokens.mean(dim=1))
        return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[1:]))


def orthogonal_map(width_from: int, width_to: int) -> nn.Module:
    """A linear map without bias whose weight stays orthogonal (semi-orthogonal between different widths)."""
    # torch's default between different widths, "householder", truncates -1 on a diagonal that weight decay has shrunk
    # to 0: after one step of AdamW the map is zero.
    return orthogonal(nn.Linear(width_from, width_to, bias=False), orthogonal_map="cayley")
