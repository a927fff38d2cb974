"""Balanced divergence distillation (BD-KD)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..probes import entropy_of
from .base import check_positive
from .logit_distillation import LogitDistillation
from .mask_logit_distillation import resize_logits
from .mask_logits import check_masks


class BalancedDivergenceDistillation(LogitDistillation):
    r"""
    \\(T^2 (w \, \mathrm{KL}(p^T \,\|\, p^S) + (1 - w) \, \mathrm{KL}(p^S \,\|\, p^T))\\) of each clip, mean over the
    batch, in float32, with \\(w = \sigma(\kappa (H(p^T) - H(p^S)))\\) from the entropies of the predictions in nats
    (Amara et al., 2022). Where the student is surer than the teacher, w is large and the forward divergence spreads
    it out; where the teacher is surer, the reverse divergence, which seeks a mode, sharpens it.

    Of the paper this is the student's loss alone: there the teacher learns beside the student and is regularised with
    the reverse divergence, here it is frozen. How the paper weighs the divergences by the entropy gap was not found.
    The logistic function is our choice: it has no threshold, the weights sum to 1, and at equal entropies both
    divergences count one half, which for small differences is KD. Entropies are those of the predictions themselves,
    at temperature 1, since T hides most of the gap; no gradient flows through w.

    Args:
        temperature (`float`, *optional*, defaults to 4.0): T of both divergences. Not found in the paper; as for KD.
        sharpness (`float`, *optional*, defaults to 1.0): \\(\kappa\\) per nat. Our choice.
        weight (`float`, *optional*, defaults to 1.0): factor of the part `bd_kd`. Not found in the paper; as for KD.

    Raises:
        ValueError: for a constant that is not positive.
    """

    name = "bd_kd"
    compares = "logits: forward and reverse KL, weighted clip by clip (pixel by pixel) by the gap of entropies"
    source = "https://arxiv.org/abs/2212.12965"
    citation = """@article{amara2022bdkd,
  title={BD-KD: Balancing the Divergences for Online Knowledge Distillation},
  author={Amara, Ibtihel and Sepahvand, Nazanin and Meyer, Brett H. and Gross, Warren J. and Clark, James J.},
  journal={arXiv preprint arXiv:2212.12965},
  year={2022}
}"""

    def __init__(self, temperature: float = 4.0, sharpness: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(temperature, weight)
        check_positive(self, sharpness=sharpness)
        self.sharpness = sharpness

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"sharpness": self.sharpness}

    def _clip_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The balanced divergence of each clip at the temperature, `(batch,)`."""
        student, teacher = self._of_classes(student, teacher)
        forward_weight = torch.sigmoid(self.sharpness * (entropy_of(teacher) - entropy_of(student.detach())))
        student, teacher = ((logits / self.temperature).log_softmax(dim=-1) for logits in (student, teacher))
        forward, reverse = _divergence(teacher, student), _divergence(student, teacher)
        return (forward_weight * forward + (1 - forward_weight) * reverse).reshape(len(student), -1).mean(dim=1)

    def _of_classes(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both sides whose last dimension is that of the classes."""
        return student, teacher


class MaskBalancedDivergenceDistillation(BalancedDivergenceDistillation):
    r"""
    [`BalancedDivergenceDistillation`] of each pixel's Bernoulli distribution, mean over pixels, frames and clips;
    every frame counts, labelled or not. A teacher's mask of another size is resized to the student's as for
    [`MaskLogitDistillation`].

    Args:
        temperature (`float`, *optional*, defaults to 1.0): for the reason given in [`MaskLogitDistillation`].
        sharpness (`float`, *optional*, defaults to 1.0): \\(\kappa\\) per nat; a pixel has at most log 2.
        weight (`float`, *optional*, defaults to 1.0): factor of the part `bd_kd`.
    """

    def __init__(self, temperature: float = 1.0, sharpness: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(temperature, sharpness, weight)

    def _check_shapes(self, student: Tensor, teacher: Tensor) -> None:
        check_masks(student, teacher)

    def _of_classes(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        teacher = resize_logits(teacher, student.shape[-2:])
        return tuple(torch.stack([logits, torch.zeros_like(logits)], dim=-1) for logits in (student, teacher))


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL of the first distribution from the second, of log-probabilities, summed over the last dimension."""
    return F.kl_div(second, first, reduction="none", log_target=True).sum(dim=-1)
