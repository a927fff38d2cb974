"""What a student learns from a frozen teacher: pure tensors in, scalars out."""

from transformers import AutoConfig, AutoModel

from .entropy_monitor import EntropyMonitor, EntropyMonitorConfig, EntropyMonitorOutput, entropy_weights
from .kernels import KERNELS, TokenKernel
from .objectives import (
    OBJECTIVES,
    OBJECTIVES_OF_TASK,
    AttentionTransfer,
    ClipRelationDistillation,
    DistillationObjective,
    EntropyMonitoredClipRelations,
    EntropyMonitoredDistillation,
    EntropyMonitoredLogitDistillation,
    EntropyMonitoredMaskLogitDistillation,
    FrequencyDecoupledDistillation,
    KernelizedTokenDistillation,
    LogitDistillation,
    ManifoldDistillation,
    MaskedTokenSimilarity,
    MaskLogitDistillation,
    OrthogonalProjection,
    SimilarityPreservingDistillation,
)
from .probes import ClipProbe, MaskProbe, binary_entropy_of, entropy_of, pool_masks
from .teacher import LiveTeacher, TeacherSignal, check_compatible, fingerprint
from .token_distillation import (
    BRANCHES,
    Grids,
    pool_branch,
    pool_tokens,
    shared_branches,
    sliding_windows,
    token_distillation_loss,
    token_grids,
)

AutoConfig.register(EntropyMonitorConfig.model_type, EntropyMonitorConfig)
AutoModel.register(EntropyMonitorConfig, EntropyMonitor)

__all__ = [
    "BRANCHES",
    "KERNELS",
    "OBJECTIVES",
    "OBJECTIVES_OF_TASK",
    "AttentionTransfer",
    "ClipProbe",
    "ClipRelationDistillation",
    "DistillationObjective",
    "EntropyMonitor",
    "EntropyMonitorConfig",
    "EntropyMonitorOutput",
    "EntropyMonitoredClipRelations",
    "EntropyMonitoredDistillation",
    "EntropyMonitoredLogitDistillation",
    "EntropyMonitoredMaskLogitDistillation",
    "FrequencyDecoupledDistillation",
    "Grids",
    "KernelizedTokenDistillation",
    "LiveTeacher",
    "LogitDistillation",
    "ManifoldDistillation",
    "MaskLogitDistillation",
    "MaskProbe",
    "MaskedTokenSimilarity",
    "OrthogonalProjection",
    "SimilarityPreservingDistillation",
    "TeacherSignal",
    "TokenKernel",
    "binary_entropy_of",
    "check_compatible",
    "entropy_of",
    "entropy_weights",
    "fingerprint",
    "pool_branch",
    "pool_masks",
    "pool_tokens",
    "shared_branches",
    "sliding_windows",
    "token_distillation_loss",
    "token_grids",
]
