"""Similarity-preserving distillation (SPKD)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ..gathering import gathered
from ..kernels import unit_tokens
from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES
from .token_objective import TokenObjective


class SimilarityPreservingDistillation(TokenObjective):
    r"""
    \\(\frac{1}{B^2} \|\tilde G^T - \tilde G^S\|_F^2\\) over the branches, where \\(G = F F^\top\\) holds the products
    between the B clips of a batch, each clip one row of F, all its tokens flattened, and \\(\tilde G\\) has rows of
    length 1 (Tung & Mori, 2019, Eq. 1-4). Compared are relations between clips, whereas
    [`KernelizedTokenDistillation`] compares those between the tokens of a clip.

    Neither width nor number of tokens has to agree, so the teacher's tokens are not pooled. The clips of all ranks are
    related with one another.

    Args:
        weight (`float`, *optional*, defaults to 3000.0):
            Factor of every part; that of RepDistiller (`-b 3000`, "verified by original author"), for one layer.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range.
    """

    name = "spkd"
    compares = "pairs of clips of the batch, by products of all their tokens"
    source = "https://arxiv.org/abs/1907.09682"
    citation = """@inproceedings{tung2019similarity,
  title={Similarity-Preserving Knowledge Distillation},
  author={Tung, Frederick and Mori, Greg},
  booktitle={International Conference on Computer Vision},
  year={2019}
}"""

    def __init__(self, weight: float = 3000.0, branches: Sequence[str] = BRANCHES) -> None:
        super().__init__(weight, branches)

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        teacher_tokens = self._teacher_tokens(branch, teacher_signal)
        return F.mse_loss(clip_similarities(student_tokens), clip_similarities(teacher_tokens))


def clip_similarities(tokens: Tensor) -> Tensor:
    """`(batch, tokens, width)` -> products of all clips of all ranks `(clips, clips)`, rows of length 1."""
    clips = gathered(tokens.flatten(1))
    return unit_tokens(clips @ clips.T)
