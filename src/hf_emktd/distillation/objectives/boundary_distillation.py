"""Boundary-privileged knowledge distillation (BPKD) of masks."""

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
from .mask_logit_distillation import bernoulli_divergence, resize_logits
from .mask_logits import check_masks

BODY_DIVERGENCES = ("bernoulli", "channel")


class BoundaryDistillation(DistillationObjective):
    r"""
    Distils a mask's boundary and its body apart, so that the few pixels of the boundary, where small models err, are
    not drowned (Liu et al., 2024, WACV). In float32, with T for all logits and a factor \\(T^2\\):

    - edge: KL of each pixel's Bernoulli distribution, mean over a frame's boundary, then over the frames with one;
    - body: the same over the other pixels of each frame, or with `body="channel"` the paper's channel-wise form: the
      KL of the softmax over all places of a frame, of logits that are 0 on the boundary.

    The boundary is what dilation and erosion of a mask by `radius` pixels leave between them: the ground truth's in
    frames that have a label, elsewhere that of the teacher's own mask (on AVSBench's S4 four of five training frames
    have no label). The paper softens it by averaging from the labels' to the logits' resolution; here both are equal.

    The paper's classes exclude each other and its edge term is a softmax over them; a mask has one logit a pixel, of
    which the Bernoulli distribution is what the softmax becomes. The default body differs from the paper's: in a
    silent frame a softmax over places has nothing but background to rank. Official training code is unreleased;
    radius, temperature and both weights are those of a third party's implementation.

    Args:
        body_weight (`float`, *optional*, defaults to 20.0): factor of the part `bpkd_body`.
        edge_weight (`float`, *optional*, defaults to 50.0): factor of the part `bpkd_edge`.
        radius (`int`, *optional*, defaults to 3): in pixels of the student's mask.
        temperature (`float`, *optional*, defaults to 4.0): T.
        body (`str`, *optional*, defaults to `"bernoulli"`): or `"channel"`, see above.
        weight (`float`, *optional*, defaults to 1.0): factor of both parts.

    Raises:
        ValueError: for an option outside its range.
    """

    name = "bpkd"
    compares = "masks: pixels of the boundary and of the body apart"
    source = "https://arxiv.org/abs/2306.08075"
    reads = LOGITS
    citation = """@inproceedings{liu2024bpkd,
  title={BPKD: Boundary Privileged Knowledge Distillation For Semantic Segmentation},
  author={Liu, Liyang and Wang, Zihan and Phan, Minh Hieu and Zhang, Bowen and Ge, Jinchao and Liu, Yifan},
  booktitle={IEEE/CVF Winter Conference on Applications of Computer Vision},
  year={2024}
}"""

    def __init__(
        self,
        body_weight: float = 20.0,
        edge_weight: float = 50.0,
        radius: int = 3,
        temperature: float = 4.0,
        body: str = "bernoulli",
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(self, body_weight=body_weight, edge_weight=edge_weight, radius=radius, temperature=temperature)
        check_weight(self, weight)
        if body not in BODY_DIVERGENCES:
            raise ValueError(f"BoundaryDistillation: unknown body {body!r}; known are {', '.join(BODY_DIVERGENCES)}.")
        self.body_weight = body_weight
        self.edge_weight = edge_weight
        self.radius = radius
        self.temperature = temperature
        self.body = body
        self.weight = weight

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"bpkd_edge": scalar, "bpkd_body": scalar}` from logits and labels `(batch, frames, height, width)`, labels of
        1, 0 and -100. Without labels the teacher's masks alone tell the boundaries.
        """
        student, teacher = student_output.logits, teacher_signal.logits.detach()
        check_masks(student, teacher)
        _check_labels(student, labels)
        with autocast_disabled(student):
            student = at_least_float32(student)
            teacher = resize_logits(at_least_float32(teacher), student.shape[-2:])
            edge = mask_boundary(reference_masks(teacher, labels), self.radius)
            student, teacher = student / self.temperature, teacher / self.temperature
            divergences = bernoulli_divergence(student, teacher)
            on_edge = mean_over(divergences, edge)
            if self.body == "bernoulli":
                on_body = mean_over(divergences, ~edge)
            else:
                on_body = place_divergence(student.masked_fill(edge, 0), teacher.masked_fill(edge, 0))
        scale = self.weight * self.temperature**2
        return {"bpkd_edge": scale * self.edge_weight * on_edge, "bpkd_body": scale * self.body_weight * on_body}

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "body_weight": self.body_weight,
            "edge_weight": self.edge_weight,
            "radius": self.radius,
            "temperature": self.temperature,
            "body": self.body,
            "weight": self.weight,
        }


def reference_masks(teacher: Tensor, labels: Tensor | None) -> Tensor:
    """
    Masks of 0 and 1 in the shape and dtype of the teacher's logits `(batch, frames, height, width)`: labels where
    there are any, else what the teacher calls sounding.
    """
    predicted = teacher > 0
    if labels is None:
        return predicted.to(teacher.dtype)
    return torch.where(labels >= 0, labels > 0, predicted).to(teacher.dtype)


def mask_boundary(masks: Tensor, radius: int) -> Tensor:
    """
    Where a square of `radius` pixels to each side holds both values of a mask, bool of the same shape. The border of
    the frame is no boundary.
    """
    window = {"kernel_size": 2 * radius + 1, "stride": 1, "padding": radius}
    return F.max_pool2d(masks, **window) > -F.max_pool2d(-masks, **window)


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Mean of each frame's pixels where a mask says so, then over the frames that have such pixels; 0 without any."""
    counts = where.sum(dim=(-2, -1))
    means = (values * where).sum(dim=(-2, -1)) / counts.clamp_min(1)
    return means.sum() / (counts > 0).sum().clamp_min(1)


def place_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the teacher's softmax over all places of a frame from the student's, mean over frames and clips."""
    student, teacher = (logits.flatten(2).log_softmax(dim=-1) for logits in (student, teacher))
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1).mean()


def _check_labels(student: Tensor, labels: Tensor | None) -> None:
    if labels is not None and labels.shape != student.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)} must be masks like the student's logits {tuple(student.shape)}; resize "
            "them to its image_size."
        )
