"""Distillation objectives, one a file, by the name that the command line uses."""

from .base import DistillationObjective
from .entropy_monitored_distillation import EntropyMonitoredDistillation
from .kernelized_token_distillation import KernelizedTokenDistillation
from .logit_distillation import LogitDistillation

OBJECTIVES = {
    "kd": LogitDistillation,
    "ktd": KernelizedTokenDistillation,
    "em_ktd": EntropyMonitoredDistillation,
}

__all__ = [
    "OBJECTIVES",
    "DistillationObjective",
    "EntropyMonitoredDistillation",
    "KernelizedTokenDistillation",
    "LogitDistillation",
]
