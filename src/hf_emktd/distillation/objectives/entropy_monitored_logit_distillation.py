"""Entropy-monitored logit distillation (EM-KD), of classes and of masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES
from .entropy_weighting import EntropyWeighting
from .kernelized_token_distillation import KernelizedTokenDistillation
from .logit_distillation import LogitDistillation
from .mask_logit_distillation import MaskLogitDistillation

MEAN = "mean"


class _EntropyWeightedLogits(EntropyWeighting):
    citation = KernelizedTokenDistillation.citation

    def __init__(self, *args: Any, branch: str = "fusion", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if branch not in (*BRANCHES, MEAN):
            raise ValueError(f"unknown branch {branch!r}; known are {', '.join(BRANCHES)} and {MEAN!r}.")
        self.branch = branch
        self.branches = BRANCHES if branch == MEAN else (branch,)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"branch": self.branch}

    def _clip_weights(self, teacher_signal: TeacherSignal) -> Tensor:
        weights = self.branch_weights(teacher_signal)
        if not weights:
            raise ValueError(
                f"the teacher has no {' or '.join(self.branches)} tokens, so its monitor no entropy of them. Set "
                f"`branch` to one of {', '.join(teacher_signal.tokens)}."
            )
        return torch.stack(list(weights.values())).mean(dim=0)


class EntropyMonitoredLogitDistillation(_EntropyWeightedLogits, LogitDistillation):
    r"""
    [`LogitDistillation`] in which each clip counts \\(w = \exp(-\lambda H)\\): EM-KD of the EM-KTD paper (ICLR 2026).
    The paper gives its name, entropy weights on logit distillation, and its gain; which entropy weights the logits of
    the whole model is not given in the paper. We take that of the fusion branch, from whose tokens those logits are
    made.

    Args:
        branch (`str`, *optional*, defaults to `"fusion"`):
            Whose entropy: `"fusion"`, `"audio"` or `"visual"`; `"mean"` is the mean of the weights of all branches
            that the teacher has, which also tells clips apart of which the fusion branch is certain throughout.
        entropy_lambda (`float`, *optional*, defaults to 0.5):
            \\(\lambda\\) per nat. Not given in the paper; see [`~distillation.entropy_weights`]. 0 gives KD.
        args, kwargs: those of [`LogitDistillation`].

    Raises:
        ValueError: for an option outside its range, or from `forward`, if the teacher signal has no entropies.
    """

    name = "em_kd"
    compares = "logits, clip by clip as sure as the monitor's fusion probe"
    source = "https://openreview.net/forum?id=nspzrcvzcB"


class EntropyMonitoredMaskLogitDistillation(_EntropyWeightedLogits, MaskLogitDistillation):
    """
    [`EntropyMonitoredLogitDistillation`] of masks: all pixels of a clip share its weight, since the monitor has one
    entropy for a clip and a branch.

    Args:
        branch, entropy_lambda: those of [`EntropyMonitoredLogitDistillation`].
        args, kwargs: those of [`MaskLogitDistillation`].
    """

    name = "em_kd"
