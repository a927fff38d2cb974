"""Decoupled knowledge distillation (DKD)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..kernels import at_least_float32, autocast_disabled
from ..teacher import TeacherSignal
from ..token_codes import LOGITS
from .base import DistillationObjective, check_positive, check_weight
from .class_logits import check_logits, target_classes, without_target


class DecoupledLogitDistillation(DistillationObjective):
    r"""
    \\(T^2 (\alpha \, \mathrm{KL}(b^T \,\|\, b^S) + \beta \, \mathrm{KL}(\hat t \,\|\, \hat s))\\), mean over the
    batch, in float32: \\(b\\) are the probabilities of the target class and of all others together, \\(\hat t\\) and
    \\(\hat s\\) those of the other classes among themselves (Zhao et al., 2022; official file
    `mdistiller/distillers/DKD.py` of megvii-research/mdistiller). In KD the second term is multiplied by the teacher's
    doubt in the target, so that a sure teacher tells nothing about the other classes; here it is not.

    The official code multiplies both by a factor that rises from 0 to 1 over the first 20 of 240 epochs. An objective
    knows of no epochs, so it is left out: the learning rate's own warm-up has to do.

    Labels after mixup name two classes; the larger one is the target, as for [`NormalisedLogitDistillation`]. Two
    classes leave nothing to compare beside the target, so DKD is for events, not for masks.

    Args:
        alpha (`float`, *optional*, defaults to 1.0): of the target class, as in the official code.
        beta (`float`, *optional*, defaults to 8.0):
            Of the other classes, the default of the official code; its configurations take 2 to 8 on CIFAR-100, and
            0.5 or 2 on ImageNet.
        temperature (`float`, *optional*, defaults to 4.0): T, the default of the official code.
        weight (`float`, *optional*, defaults to 1.0): factor of the part `dkd`, beside a task loss of weight 1 as in
            the official code.

    Raises:
        ValueError: for a constant that is not positive.
    """

    name = "dkd"
    compares = "logits: the target class against all others, and the others among themselves"
    source = "https://arxiv.org/abs/2203.08679"
    reads = LOGITS
    citation = """@inproceedings{zhao2022decoupled,
  title={Decoupled Knowledge Distillation},
  author={Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2022}
}"""

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, weight: float = 1.0) -> None:
        super().__init__()
        check_positive(self, alpha=alpha, beta=beta, temperature=temperature)
        check_weight(self, weight)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.weight = weight

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"dkd": scalar}` from logits `(batch, classes)` and labels, int64 `(batch,)` or float `(batch, classes)`.
        """
        student, teacher = student_output.logits, teacher_signal.logits.detach()
        check_logits(student, teacher)
        targets = target_classes(labels, student.shape[1])
        with autocast_disabled(student):
            student, teacher = (at_least_float32(logits) / self.temperature for logits in (student, teacher))
            on_target = _divergence(_target_and_rest(student, targets), _target_and_rest(teacher, targets))
            on_others = _divergence(_among_others(student, targets), _among_others(teacher, targets))
        return {self.name: self.weight * self.temperature**2 * (self.alpha * on_target + self.beta * on_others)}

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "alpha": self.alpha,
            "beta": self.beta,
            "temperature": self.temperature,
            "weight": self.weight,
        }


def _target_and_rest(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities `(batch, 2)` of the target class and of all the others together."""
    log_probabilities = logits.log_softmax(dim=1)
    target = log_probabilities.gather(1, targets.unsqueeze(1))
    rest = without_target(log_probabilities, targets).logsumexp(dim=1, keepdim=True)
    return torch.cat([target, rest], dim=1)


def _among_others(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities `(batch, classes - 1)` given that it is not the target class."""
    return without_target(logits, targets).log_softmax(dim=1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the teacher's distribution from the student's, of log-probabilities, mean over the batch."""
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
