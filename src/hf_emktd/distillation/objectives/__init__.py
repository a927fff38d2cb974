"""Distillation objectives, one a file, by the name that the command line uses."""

from .attention_transfer import AttentionTransfer
from .base import DistillationObjective
from .clip_relation_distillation import ClipRelationDistillation
from .entropy_monitored_clip_relations import EntropyMonitoredClipRelations
from .entropy_monitored_distillation import EntropyMonitoredDistillation
from .entropy_monitored_logit_distillation import (
    EntropyMonitoredLogitDistillation,
    EntropyMonitoredMaskLogitDistillation,
)
from .frequency_decoupled import FrequencyDecoupledDistillation
from .kernelized_token_distillation import KernelizedTokenDistillation
from .logit_distillation import LogitDistillation
from .manifold_distillation import ManifoldDistillation
from .mask_logit_distillation import MaskLogitDistillation
from .orthogonal_projection import OrthogonalProjection
from .similarity_preserving import SimilarityPreservingDistillation
from .token_similarity import MaskedTokenSimilarity

OBJECTIVES = {
    "kd": LogitDistillation,
    "ktd": KernelizedTokenDistillation,
    "em_ktd": EntropyMonitoredDistillation,
    "em_kd": EntropyMonitoredLogitDistillation,
    "clip_ktd": ClipRelationDistillation,
    "em_clip_ktd": EntropyMonitoredClipRelations,
    "at": AttentionTransfer,
    "spkd": SimilarityPreservingDistillation,
    "mtst": MaskedTokenSimilarity,
    "vkd": OrthogonalProjection,
    "manifold": ManifoldDistillation,
    "fd_cmkd": FrequencyDecoupledDistillation,
}
# They train classifiers of clips, and a mask has no class.
EVENTS_ONLY = ("fd_cmkd",)
OBJECTIVES_OF_TASK = {
    "audio-visual-classification": OBJECTIVES,
    "audio-visual-segmentation": {name: kind for name, kind in OBJECTIVES.items() if name not in EVENTS_ONLY}
    | {"kd": MaskLogitDistillation, "em_kd": EntropyMonitoredMaskLogitDistillation},
}

__all__ = [
    "OBJECTIVES",
    "OBJECTIVES_OF_TASK",
    "AttentionTransfer",
    "ClipRelationDistillation",
    "DistillationObjective",
    "EntropyMonitoredClipRelations",
    "EntropyMonitoredDistillation",
    "EntropyMonitoredLogitDistillation",
    "EntropyMonitoredMaskLogitDistillation",
    "FrequencyDecoupledDistillation",
    "KernelizedTokenDistillation",
    "LogitDistillation",
    "ManifoldDistillation",
    "MaskLogitDistillation",
    "MaskedTokenSimilarity",
    "OrthogonalProjection",
    "SimilarityPreservingDistillation",
]
