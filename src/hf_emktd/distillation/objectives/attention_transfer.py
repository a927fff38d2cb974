"""Attention transfer (AT)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ..teacher import TeacherSignal
from ..token_codes import RELATIONS
from ..token_distillation import BRANCHES, Grids, pool_branch
from .token_objective import GridObjective


class AttentionTransfer(GridObjective):
    r"""
    Mean squared difference of the branches' attention maps \\(A / \|A\|_2\\), where \\(A_i\\) is the mean square of
    token i over its width (Zagoruyko & Komodakis, 2017, Eq. 2 with p = 2). A branch of tokens stands for a layer of a
    convolutional network, its tokens for the positions of the feature map; a branch of several grids has one map over
    all of them. Feature maps became tokens in EM-KTD's comparison too; how is not given in the paper.

    A finer map of the teacher is average-pooled onto the student's grids, before its length is taken. RepDistiller
    pools the features instead; the mean of tokens of opposite signs would be a place without activity.

    Tokens behind a LayerNorm, such as CAV-MAE's fusion tokens, differ in activity only as far as the norm's weights
    differ: a model with all of them 1, as at the start, has a flat map and that branch a part of 0.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`):
            By branch the grids that the student's tokens lie on: [`~distillation.token_grids`] of its config.
        weight (`float`, *optional*, defaults to 1000.0):
            Factor of every part; that of the official code (`--beta 1e+3`) and of RepDistiller (`-b 1000`).
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range, or a branch of a single token, whose map is always 1.
    """

    name = "at"
    compares = "where in a branch the tokens are large"
    source = "https://arxiv.org/abs/1612.03928"
    reads = RELATIONS
    citation = """@inproceedings{zagoruyko2017paying,
  title={Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention Transfer},
  author={Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle={International Conference on Learning Representations},
  year={2017}
}"""  # noqa: E501

    def __init__(self, student_grids: Grids, weight: float = 1000.0, branches: Sequence[str] = BRANCHES) -> None:
        super().__init__(student_grids, weight, branches)
        single = [branch for branch in self.branches if self.num_tokens(branch) == 1]
        if single:
            raise ValueError(
                f"{type(self).__name__}: a map of the student's single token of {', '.join(single)} is always 1. "
                "Leave it out of `branches`."
            )

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        student = activity(student_tokens)
        teacher = activity(self._teacher_tokens(branch, teacher_signal))
        teacher = pool_branch(branch, teacher, teacher_signal.grids, self.student_grids)
        return F.mse_loss(F.normalize(student, dim=1), F.normalize(teacher, dim=1))


def activity(tokens: Tensor) -> Tensor:
    """`(batch, tokens, width)` -> mean square of each token `(batch, tokens, 1)`."""
    return tokens.square().mean(dim=2, keepdim=True)
