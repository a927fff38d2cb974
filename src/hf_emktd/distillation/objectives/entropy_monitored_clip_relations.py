"""Entropy-monitored distillation of the relations between clips."""

from __future__ import annotations

from .clip_relation_distillation import ClipRelationDistillation
from .entropy_weighting import EntropyWeighting


class EntropyMonitoredClipRelations(EntropyWeighting, ClipRelationDistillation):
    r"""
    [`ClipRelationDistillation`] in which the pair of clips i and j counts \\(w_{m,i} \, w_{m,j}\\) in branch m, with
    the weights \\(w_m = \exp(-\lambda H_m)\\) of EM-KTD. A relation tells something only if both of its clips do; the
    product is \\(\exp(-\lambda (H_{m,i} + H_{m,j}))\\), the weight at the joint entropy of two independent answers of
    the monitor. Not part of the EM-KTD paper.

    Args:
        entropy_lambda (`float`, *optional*, defaults to 0.5):
            \\(\lambda\\) per nat, as in EM-KTD; see [`~distillation.entropy_weights`]. 0 gives the plain objective.
        args, kwargs: those of [`ClipRelationDistillation`].

    Raises:
        ValueError: if `entropy_lambda` is negative, or from `forward`, if the teacher signal has no entropies.
    """

    name = "em_clip_ktd"
    compares = "pairs of clips of the batch, by a kernel on pooled tokens, each pair as sure as both its clips"
    source = "this library"
