"""What a student learns from a frozen teacher: pure tensors in, scalars out."""

from transformers import AutoConfig, AutoModel

from .entropy_monitor import EntropyMonitor, EntropyMonitorConfig, EntropyMonitorOutput, entropy_of, entropy_weights
from .kernels import KERNELS, TokenKernel
from .objectives import (
    OBJECTIVES,
    OBJECTIVES_OF_TASK,
    DistillationObjective,
    EntropyMonitoredDistillation,
    KernelizedTokenDistillation,
    LogitDistillation,
    MaskLogitDistillation,
)
from .teacher import LiveTeacher, TeacherSignal, check_compatible, fingerprint
from .token_distillation import (
    BRANCHES,
    Grids,
    pool_branch,
    pool_tokens,
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
    "DistillationObjective",
    "EntropyMonitor",
    "EntropyMonitorConfig",
    "EntropyMonitorOutput",
    "EntropyMonitoredDistillation",
    "Grids",
    "KernelizedTokenDistillation",
    "LiveTeacher",
    "LogitDistillation",
    "MaskLogitDistillation",
    "TeacherSignal",
    "TokenKernel",
    "check_compatible",
    "entropy_of",
    "entropy_weights",
    "fingerprint",
    "pool_branch",
    "pool_tokens",
    "sliding_windows",
    "token_distillation_loss",
    "token_grids",
]
