"""Entropy-monitored kernelized token distillation (EM-KTD)."""

from __future__ import annotations

from .entropy_weighting import EntropyWeighting
from .kernelized_token_distillation import KernelizedTokenDistillation


class EntropyMonitoredDistillation(EntropyWeighting, KernelizedTokenDistillation):
    r"""
    [`KernelizedTokenDistillation`] in which each clip's branch m counts \\(w_m = \exp(-\lambda H_m)\\), with \\(H_m\\)
    the entropy of the teacher's monitor (EM-KTD, ICLR 2026): a branch in which the teacher sees nothing, such as noise
    or a covered picture, is not worth copying.

    Weights are at most 1, so the whole counts less than KTD at equal `weight`; the paper doubles it (666 against 333).

    Args:
        entropy_lambda (`float`, *optional*, defaults to 0.5):
            \\(\lambda\\) per nat. Not given in the paper; see [`~distillation.entropy_weights`]. 0 gives KTD.
        args, kwargs: those of [`KernelizedTokenDistillation`].

    Raises:
        ValueError: if `entropy_lambda` is negative, or from `forward`, if the teacher signal has no entropies.
    """

    name = "em_ktd"
    compares = "pairs of tokens inside a clip, by a kernel, each branch as sure as its probe"
    source = "https://openreview.net/forum?id=nspzrcvzcB"
