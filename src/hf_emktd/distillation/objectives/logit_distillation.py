"""Logit distillation (KD)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..kernels import at_least_float32, autocast_disabled
from ..teacher import TeacherSignal
from ..token_codes import LOGITS
from .base import DistillationObjective, check_positive, check_weight
from .class_logits import check_logits


class LogitDistillation(DistillationObjective):
    r"""
    \\(T^2 \, \mathrm{KL}(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(s / T))\\), mean over the batch, in float32
    (Hinton et al., 2015, section 2). The factor \\(T^2\\) keeps the size of its gradient when T changes.

    Args:
        temperature (`float`, *optional*, defaults to 4.0):
            \\(T\\). Not given in the EM-KTD paper; 4 is the value of RepDistiller and attention-transfer, whose
            comparisons the field repeats.
        weight (`float`, *optional*, defaults to 1.0):
            Factor of the part `kd`. Not given in the EM-KTD paper.

    Raises:
        ValueError: if `temperature` or `weight` is not positive.
    """

    name = "kd"
    compares = "logits"
    source = "https://arxiv.org/abs/1503.02531"
    reads = LOGITS
    citation = """@article{hinton2015distilling,
  title={Distilling the Knowledge in a Neural Network},
  author={Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal={arXiv preprint arXiv:1503.02531},
  year={2015}
}"""

    def __init__(self, temperature: float = 4.0, weight: float = 1.0) -> None:
        super().__init__()
        check_positive(self, temperature=temperature)
        check_weight(self, weight)
        self.temperature = temperature
        self.weight = weight

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"<name>": scalar}` from the logits of both; `labels` are not used."""
        student, teacher = student_output.logits, teacher_signal.logits.detach()
        self._check_shapes(student, teacher)
        with autocast_disabled(student):
            divergences = self._clip_divergences(at_least_float32(student), at_least_float32(teacher))
            divergence = (self._clip_weights(teacher_signal) * divergences).mean()
        return {self.name: self.weight * self.temperature**2 * divergence}

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "temperature": self.temperature, "weight": self.weight}

    def _clip_weights(self, teacher_signal: TeacherSignal) -> Tensor | float:
        """What each clip counts."""
        return 1.0

    def _check_shapes(self, student: Tensor, teacher: Tensor) -> None:
        check_logits(student, teacher)

    def _clip_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL of each clip at the temperature, `(batch,)`, from logits `(batch, classes)`."""
        student = (student / self.temperature).log_softmax(dim=-1)
        teacher = (teacher / self.temperature).log_softmax(dim=-1)
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
