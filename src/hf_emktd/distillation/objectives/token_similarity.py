"""Masked token similarity transfer (MTST)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels import unit_tokens
from ..teacher import TeacherSignal
from ..token_codes import RELATIONS
from ..token_distillation import BRANCHES, Grids
from .base import check_positive
from .token_objective import GridObjective


class MaskedTokenSimilarity(GridObjective):
    r"""
    \\(\mathrm{KL}(p_i^T \,\|\, p_i^S)\\), mean over the tokens i of a clip and over clips, with
    \\(p_i = \mathrm{softmax}_j(\cos(z_i, z_j) / \tau)\\) over the unmasked tokens j other than i (Choi et al., 2023).
    A softmax does not see what all similarities of a token have in common, which is what EM-KTD holds against it.

    The formula is reconstructed: no code is public, and the paper's abstract says that the relation between a token
    and the other unmasked ones is encoded in a token similarity vector that does not depend on the width. Cosine,
    softmax and KL are named in the reviews of EM-KTD. We leave a token's similarity to itself out, as "other" says:
    it is 1 in both models and at a low temperature would take most of the softmax. Masked here are the tokens j of
    the vector, drawn anew for each clip and step, the same for teacher and student; every token has a vector.

    The teacher's tokens are average-pooled onto the student's grid where their counts differ.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`):
            By branch the grids that the student's tokens lie on: [`~distillation.token_grids`] of its config.
        temperature (`float`, *optional*, defaults to 0.1):
            \\(\tau\\). Not given in the sources; cosines spread over at most 2, which a softmax at 1 hardly tells
            apart.
        mask_ratio (`float`, *optional*, defaults to 0.5):
            Share of the tokens that is masked, at least 0 and below 1. Not given in the sources.
        weight (`float`, *optional*, defaults to 1.0): factor of every part. Not given in the sources.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range, or a branch with fewer than 3 unmasked tokens: a token that has
            only one other to be similar to has the vector (1).
    """

    name = "mtst"
    compares = "pairs of tokens inside a clip, by a softmax over half of them"
    source = "MTST (ICASSP 2023)"
    reads = RELATIONS
    citation = """@inproceedings{choi2023masked,
  title={Masked Token Similarity Transfer for Compressing Transformer-Based {ASR} Models},
  author={Choi, Euntae and Lim, Youshin and Kim, Byeong-Yeol and Kim, Hyung Yong and Lee, Hanbin and Lim, Yunkyu and Yu, Seung Woo and Yoo, Sungjoo},
  booktitle={IEEE International Conference on Acoustics, Speech and Signal Processing},
  year={2023}
}"""  # noqa: E501

    def __init__(
        self,
        student_grids: Grids,
        temperature: float = 0.1,
        mask_ratio: float = 0.5,
        weight: float = 1.0,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(student_grids, weight, branches)
        check_positive(self, temperature=temperature)
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"{type(self).__name__}: mask_ratio must be at least 0 and below 1, got {mask_ratio}.")
        self.temperature = temperature
        self.mask_ratio = mask_ratio
        self._check_unmasked()

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"temperature": self.temperature, "mask_ratio": self.mask_ratio}

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        teacher_tokens = self._pooled_teacher_tokens(branch, teacher_signal)
        compared = self._compared_pairs(student_tokens)
        student = similarity_vectors(student_tokens, self.temperature, compared)
        teacher = similarity_vectors(teacher_tokens, self.temperature, compared)
        # masked before the exponential: at a low temperature that of a token's similarity to itself is infinite
        shares = teacher.masked_fill(~compared, -torch.inf).exp()
        return (shares * (teacher - student)).sum(dim=2).mean()

    def _check_unmasked(self) -> None:
        for branch in self.branches:
            count = self.num_tokens(branch)
            if self._num_unmasked(count) < 3:
                raise ValueError(
                    f"{type(self).__name__}: mask_ratio {self.mask_ratio} leaves {self._num_unmasked(count)} of the "
                    f"student's {count} {branch} tokens unmasked, at least 3 are needed. Lower mask_ratio or leave "
                    f"{branch!r} out of `branches`."
                )

    def _num_unmasked(self, num_tokens: int) -> int:
        return num_tokens - int(self.mask_ratio * num_tokens)

    def _compared_pairs(self, tokens: Tensor) -> Tensor:
        """bool `(batch, tokens, tokens)`: whether similarity vector i has an entry for token j."""
        batch, count, _ = tokens.shape
        order = torch.rand(batch, count, device=tokens.device).argsort(dim=1)
        unmasked = order < self._num_unmasked(count)
        itself = torch.eye(count, dtype=torch.bool, device=tokens.device)
        return unmasked.unsqueeze(1) & ~itself


def similarity_vectors(tokens: Tensor, temperature: float, compared: Tensor) -> Tensor:
    """
    Logarithms of the softmax over the `compared` cosines of each token of `(batch, tokens, width)`:
    `(batch, tokens, tokens)`. Entries that are not compared have no part in it; their own values mean nothing.
    """
    tokens = unit_tokens(tokens)
    logits = tokens @ tokens.transpose(1, 2) / temperature
    return logits - logits.masked_fill(~compared, -torch.inf).logsumexp(dim=2, keepdim=True)
