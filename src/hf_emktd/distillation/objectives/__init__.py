"""Distillation objectives, one a file, by the name that the command line uses."""

from .base import DistillationObjective
from .entropy_monitored_distillation import EntropyMonitoredDistillation
from .kernelized_token_distillation import KernelizedTokenDistillation
from .logit_distillation import LogitDistillation
from .mask_logit_distillation import MaskLogitDistillation

OBJECTIVES = {
    "kd": LogitDistillation,
    "ktd": KernelizedTokenDistillation,
    "em_ktd": EntropyMonitoredDistillation,
}
OBJECTIVES_OF_TASK = {
    "audio-visual-classification": OBJECTIVES,
    "audio-visual-segmentation": OBJECTIVES | {"kd": MaskLogitDistillation},
}

__all__ = [
    "OBJECTIVES",
    "OBJECTIVES_OF_TASK",
    "DistillationObjective",
    "EntropyMonitoredDistillation",
    "KernelizedTokenDistillation",
    "LogitDistillation",
    "MaskLogitDistillation",
]
