"""Distillation objectives, one a file, by the name that the command line uses."""

from .affinity_mimicking import AffinityMimicking
from .attention_transfer import AttentionTransfer
from .balanced_divergence_distillation import BalancedDivergenceDistillation, MaskBalancedDivergenceDistillation
from .base import DistillationObjective
from .boundary_distillation import BoundaryDistillation
from .class_mean_direction import ClassMeanDirection
from .clip_relation_distillation import ClipRelationDistillation
from .decoupled_logit_distillation import DecoupledLogitDistillation
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
from .multi_stage_features import MultiStageFeatures
from .normalised_logit_distillation import NormalisedLogitDistillation
from .orthogonal_projection import OrthogonalProjection
from .similarity_preserving import SimilarityPreservingDistillation
from .token_relation_graph import TokenRelationGraph
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
    "nkd": NormalisedLogitDistillation,
    "dkd": DecoupledLogitDistillation,
    "bd_kd": BalancedDivergenceDistillation,
    "trg": TokenRelationGraph,
    "nd": ClassMeanDirection,
    "affinity": AffinityMimicking,
}
# They need the classes of clips, which a mask has not, or audio and visual tokens of one width.
EVENTS_ONLY = ("fd_cmkd", "nkd", "dkd", "nd", "affinity")
# What is another class for masks, and what is for masks alone.
OF_MASKS = {
    "kd": MaskLogitDistillation,
    "em_kd": EntropyMonitoredMaskLogitDistillation,
    "bd_kd": MaskBalancedDivergenceDistillation,
    "transkd": MultiStageFeatures,
    "bpkd": BoundaryDistillation,
}
OBJECTIVES_OF_TASK = {
    "audio-visual-classification": OBJECTIVES,
    "audio-visual-segmentation": {name: kind for name, kind in OBJECTIVES.items() if name not in EVENTS_ONLY}
    | OF_MASKS,
}

__all__ = [
    "OBJECTIVES",
    "OBJECTIVES_OF_TASK",
    "AffinityMimicking",
    "AttentionTransfer",
    "BalancedDivergenceDistillation",
    "BoundaryDistillation",
    "ClassMeanDirection",
    "ClipRelationDistillation",
    "DecoupledLogitDistillation",
    "DistillationObjective",
    "EntropyMonitoredClipRelations",
    "EntropyMonitoredDistillation",
    "EntropyMonitoredLogitDistillation",
    "EntropyMonitoredMaskLogitDistillation",
    "FrequencyDecoupledDistillation",
    "KernelizedTokenDistillation",
    "LogitDistillation",
    "ManifoldDistillation",
    "MaskBalancedDivergenceDistillation",
    "MaskLogitDistillation",
    "MaskedTokenSimilarity",
    "MultiStageFeatures",
    "NormalisedLogitDistillation",
    "OrthogonalProjection",
    "SimilarityPreservingDistillation",
    "TokenRelationGraph",
]
