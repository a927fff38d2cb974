"""Normalised knowledge distillation (NKD)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from ..kernels import at_least_float32, autocast_disabled
from ..teacher import TeacherSignal
from ..token_codes import LOGITS
from .base import DistillationObjective, check_positive, check_weight
from .class_logits import check_logits, target_classes, without_target


class NormalisedLogitDistillation(DistillationObjective):
    r"""
    \\(-t_y \log s_y - \gamma T^2 \sum_{i \neq y} \hat t_i \log \hat s_i\\), mean over the batch, in float32: the
    teacher's confidence in the target class y weighs the student's cross entropy there, and the other classes are
    compared after both sides were normalised to sum to one without the target (Yang et al., 2023; official file
    `mmcls/models/dis_losses/nkd.py` of yzd-v/cls_KD). \\(t_y\\) and \\(s_y\\) are at temperature 1, the others,
    \\(\hat t\\) and \\(\hat s\\), at T.

    Labels after mixup name two classes; as in the official code the larger one is the target. Two classes leave
    nothing to compare beside the target, so NKD is for events, not for masks.

    Args:
        gamma (`float`, *optional*, defaults to 1.5): \\(\gamma\\), as in the official code.
        temperature (`float`, *optional*, defaults to 1.0): T of the non-targets, as in the official code.
        weight (`float`, *optional*, defaults to 1.0): factor of the part `nkd`; the official code adds it to the task
            loss as it is.

    Raises:
        ValueError: for a constant that is not positive.
    """

    name = "nkd"
    compares = "logits: the target class, and the others after normalising them without it"
    source = "https://arxiv.org/abs/2303.13005"
    reads = LOGITS
    citation = """@inproceedings{yang2023knowledge,
  title={From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels},
  author={Yang, Zhendong and Zeng, Ailing and Yuan, Chun and Li, Yu},
  booktitle={International Conference on Computer Vision},
  year={2023}
}"""  # noqa: E501

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        check_positive(self, gamma=gamma, temperature=temperature)
        check_weight(self, weight)
        self.gamma = gamma
        self.temperature = temperature
        self.weight = weight

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"nkd": scalar}` from logits `(batch, classes)` and labels, int64 `(batch,)` or float `(batch, classes)`.
        """
        student, teacher = student_output.logits, teacher_signal.logits.detach()
        check_logits(student, teacher)
        targets = target_classes(labels, student.shape[1])
        with autocast_disabled(student):
            student, teacher = at_least_float32(student), at_least_float32(teacher)
            loss = self._target_loss(student, teacher, targets) + self._others_loss(student, teacher, targets)
        return {self.name: self.weight * loss.mean()}

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "gamma": self.gamma, "temperature": self.temperature, "weight": self.weight}

    def _target_loss(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        chosen = targets.unsqueeze(1)
        return -(teacher.softmax(dim=1).gather(1, chosen) * student.log_softmax(dim=1).gather(1, chosen)).squeeze(1)

    def _others_loss(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        student, teacher = (without_target(logits, targets) / self.temperature for logits in (student, teacher))
        cross_entropy = -(teacher.softmax(dim=1) * student.log_softmax(dim=1)).sum(dim=1)
        return self.gamma * self.temperature**2 * cross_entropy
