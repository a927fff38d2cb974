"""Token relation graph (TRG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gathering import gathered
from ..kernels import unit_tokens
from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES, Grids, token_grids
from .base import check_positive
from .projections import width_projections
from .token_objective import GridObjective


class TokenRelationGraph(GridObjective):
    r"""
    Three relations between tokens, summed for each branch (Zhang et al., 2023):

    - inner: [`inner_relation_loss`], what the tokens of one clip attend to in one another;
    - local: [`local_graph_loss`], the teacher's nearest neighbours among tokens of all clips;
    - global: [`token_contrast_loss`], which student token belongs to which teacher token, after a learned linear map
      where the widths differ.

    Local and global graph are those of tokens drawn from the batch at random in every step, on all ranks; the
    teacher's tokens are average-pooled onto the student's grid.

    The form of the three terms is that of summaries of the paper. Not found: code, coefficients, numbers of tokens and
    neighbours, sigma and temperature; the values here are our choice. The coefficients let each term start at about
    one or less. The paper lowers the temperature during training, which an objective cannot: it has no clock.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`): see [`~distillation.token_grids`].
        student_widths, teacher_widths (`dict[str, int]`): by branch the width of the tokens.
        inner_weight, local_weight (`float`, *optional*, default to 1.0): coefficients; 0 leaves a term out.
        global_weight (`float`, *optional*, defaults to 0.1): likewise; among 512 tokens the term starts at log 512.
        sampled_tokens (`int`, *optional*, defaults to 512): tokens drawn on each rank; all, if there are no more.
        neighbours (`int`, *optional*, defaults to 8): of each token in the local graph, at least 2.
        sigma (`float`, *optional*, defaults to 0.1): of squared distances between unit-length tokens, 0 to 4.
        temperature (`float`, *optional*, defaults to 0.1): of the global contrast.
        weight (`float`, *optional*, defaults to 1.0): factor of every part.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range.
    """

    name = "trg"
    compares = "tokens: attention inside a clip, the teacher's nearest neighbours in the batch, InfoNCE place by place"
    source = "https://arxiv.org/abs/2306.12442"
    citation = """@article{zhang2023token,
  title={Knowledge Distillation via Token-level Relationship Graph},
  author={Zhang, Shuoxi and Liu, Hanpeng and He, Kun},
  journal={arXiv preprint arXiv:2306.12442},
  year={2023}
}"""

    def __init__(
        self,
        student_grids: Grids,
        student_widths: Mapping[str, int],
        teacher_widths: Mapping[str, int],
        inner_weight: float = 1.0,
        local_weight: float = 1.0,
        global_weight: float = 0.1,
        sampled_tokens: int = 512,
        neighbours: int = 8,
        sigma: float = 0.1,
        temperature: float = 0.1,
        weight: float = 1.0,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(student_grids, weight, branches)
        self.term_weights = {"inner": inner_weight, "local": local_weight, "global": global_weight}
        if min(self.term_weights.values()) < 0 or not any(self.term_weights.values()):
            raise ValueError(
                f"TokenRelationGraph: inner, local and global weight must not be negative nor all be 0, got "
                f"{self.term_weights}."
            )
        if neighbours < 2:
            raise ValueError(
                f"TokenRelationGraph: neighbours must be at least 2, got {neighbours}; a single edge is all of a row."
            )
        check_positive(self, sampled_tokens=sampled_tokens, sigma=sigma, temperature=temperature)
        self.sampled_tokens = sampled_tokens
        self.neighbours = neighbours
        self.sigma = sigma
        self.temperature = temperature
        projected = self.branches if global_weight else ()
        self.projections = width_projections(projected, student_widths, teacher_widths)

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the student's grids and the widths of both."""
        widths = (student_config.branch_widths, teacher_config.branch_widths)
        return cls(token_grids(student_config), *widths, **options)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            **{f"{name}_weight": weight for name, weight in self.term_weights.items()},
            "sampled_tokens": self.sampled_tokens,
            "neighbours": self.neighbours,
            "sigma": self.sigma,
            "temperature": self.temperature,
        }

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        teacher_tokens = self._pooled_teacher_tokens(branch, teacher_signal)
        terms = {}
        if self.term_weights["inner"]:
            terms["inner"] = inner_relation_loss(student_tokens, teacher_tokens)
        chosen = self._drawn(student_tokens)
        student, teacher = (gathered(tokens.flatten(0, 1)[chosen]) for tokens in (student_tokens, teacher_tokens))
        if self.term_weights["local"]:
            terms["local"] = local_graph_loss(student, teacher, self.neighbours, self.sigma)
        if self.term_weights["global"]:
            terms["global"] = token_contrast_loss(self.projections[branch](student), teacher, self.temperature)
        return sum(self.term_weights[name] * term for name, term in terms.items())

    def _drawn(self, tokens: Tensor) -> Tensor:
        """Which of the batch's tokens make the graph, in their order if all do."""
        count = tokens.shape[0] * tokens.shape[1]
        if count <= self.sampled_tokens:
            return torch.arange(count, device=tokens.device)
        # drawn on the CPU, so that a seed means the same tokens on every device
        return torch.randperm(count)[: self.sampled_tokens].to(tokens.device)


def inner_relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""
    \\(\|R^T_i - R^S_i\|^2\\), mean over tokens i and clips, for \\(R = \mathrm{softmax}(F F^\top / \sqrt D)\\), row by
    row, and tokens F `(batch, tokens, width)` of width D. It is the mean squared error of the matrices times the
    number of tokens, and so keeps its size on grids of any size.

    Raises:
        ValueError: if the counts of clips or tokens differ.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"student tokens {tuple(student.shape)} and teacher tokens {tuple(teacher.shape)} need equal counts of "
            "clips and tokens."
        )
    return (_inner_relations(student) - _inner_relations(teacher)).square().sum(dim=-1).mean()


def local_graph_loss(student: Tensor, teacher: Tensor, neighbours: int, sigma: float) -> Tensor:
    r"""
    KL of the teacher's from the student's edges, mean over tokens `(tokens, width)`. A token's edges lead to its
    `neighbours` nearest others in the teacher, in proportion to \\(\exp(-\|z_i - z_j\|^2 / 2 \sigma)\\) for
    unit-length tokens z and summing to 1. The student's edges lead to the same tokens: were they its own, the
    divergence would be infinite.
    """
    distances = _squared_distances(teacher)
    nearest = min(neighbours, len(teacher) - 1)
    others = distances.clone().fill_diagonal_(torch.inf).topk(nearest, dim=1, largest=False).indices
    teacher_edges, student_edges = (
        (-each.gather(1, others) / (2 * sigma)).log_softmax(dim=1) for each in (distances, _squared_distances(student))
    )
    return F.kl_div(student_edges, teacher_edges, reduction="none", log_target=True).sum(dim=1).mean()


def token_contrast_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """
    InfoNCE between tokens `(tokens, width)` of equal width: the cross entropy of telling by the cosine which of the
    teacher's tokens lies at the place of the student's.
    """
    similarities = unit_tokens(student) @ unit_tokens(teacher).T / temperature
    return F.cross_entropy(similarities, torch.arange(len(student), device=student.device))


def _inner_relations(tokens: Tensor) -> Tensor:
    return (tokens @ tokens.transpose(1, 2) / tokens.shape[2] ** 0.5).softmax(dim=-1)


def _squared_distances(tokens: Tensor) -> Tensor:
    """Between the directions of tokens `(tokens, width)`."""
    tokens = unit_tokens(tokens)
    return 2 - 2 * tokens @ tokens.T
