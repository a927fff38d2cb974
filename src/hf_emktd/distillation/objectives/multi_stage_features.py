"""Patch embeddings and fused features of a picture pyramid (TransKD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..kernels import at_least_float32, autocast_disabled
from ..teacher import TeacherSignal
from ..token_codes import STAGES
from .base import DistillationObjective, check_positive, check_weight

POOLED_SIDES = (4, 2, 1)


class MultiStageFeatures(DistillationObjective):
    r"""
    Both terms of TransKD-Base (Liu et al., 2022; official files `train/CSF.py` and
    `train/train_TransKDBase_PVTv2B2B0.py` of RuipingL/TransKD), on the stages of two PVTv2 encoders, in float32:

    - features: from the coarsest stage to the finest, each of the student's maps is fused with what comes from above
      ([`SelectiveFusion`]), brought to the teacher's width and compared with the teacher's map by [`pyramid_loss`];
    - embeddings: a learned linear map of the patch embeddings that each stage starts from, compared with the teacher's
      by the mean squared error.

    The official code trains on pictures one by one; here all frames of a clip are pictures. A teacher's map of another
    size is average-pooled to the student's. Not taken over are TransKD-GL and TransKD-EA, which mix tokens before the
    comparison. What was learned for the comparison is not part of the student.

    Models must return `stage_embeddings` and `stage_maps`, which AVSegFormer does and CAV-MAE, without a pyramid,
    cannot. The terms are blind to sound.

    Args:
        student_widths, teacher_widths (`Sequence[int]`): of the stages, the finest first.
        embedding_weights (`Sequence[float]`, *optional*, defaults to 0.1, 0.1, 0.5, 1):
            Of each stage's embeddings, as in the official code.
        fused_width (`int`, *optional*, defaults to 64): of the maps while they are fused, as in the official code.
        weight (`float`, *optional*, defaults to 1.0):
            Factor of both parts; the official code adds them to the task loss as they are.

    Raises:
        ValueError: for widths or weights that do not fit, or from `forward`, if one side lacks its stages.
    """

    name = "transkd"
    compares = "the four stages of the picture encoder: patch embeddings, and feature maps fused from coarse to fine"
    source = "https://arxiv.org/abs/2202.13393"
    reads = STAGES
    citation = """@article{liu2022transkd,
  title={TransKD: Transformer Knowledge Distillation for Efficient Semantic Segmentation},
  author={Liu, Ruiping and Yang, Kailun and Roitberg, Alina and Zhang, Jiaming and Peng, Kunyu and Liu, Huayao and Stiefelhagen, Rainer},
  journal={arXiv preprint arXiv:2202.13393},
  year={2022}
}"""  # noqa: E501
    requires_tokens = True  # with which the models return their stages

    def __init__(
        self,
        student_widths: Sequence[int],
        teacher_widths: Sequence[int],
        embedding_weights: Sequence[float] = (0.1, 0.1, 0.5, 1.0),
        fused_width: int = 64,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        counts = (len(student_widths), len(teacher_widths), len(embedding_weights))
        if len(set(counts)) > 1 or 0 in counts:
            raise ValueError(
                "MultiStageFeatures: student_widths, teacher_widths and embedding_weights need one number a stage, "
                f"got {counts[0]}, {counts[1]} and {counts[2]}."
            )
        check_positive(self, fused_width=fused_width, embedding_weights=min(embedding_weights))
        check_weight(self, weight)
        self.embedding_weights = tuple(embedding_weights)
        self.fused_width = fused_width
        self.weight = weight
        widths = list(zip(student_widths, teacher_widths, strict=True))
        last = len(widths) - 1
        self.fusions = nn.ModuleList(
            SelectiveFusion(student, fused_width, teacher, from_above=stage < last)
            for stage, (student, teacher) in enumerate(widths)
        )
        self.embedding_maps = nn.ModuleList(nn.Linear(student, teacher) for student, teacher in widths)

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the widths of the stages of both."""
        for role, config in (("student", student_config), ("teacher", teacher_config)):
            if getattr(config, "stage_widths", None) is None:
                raise ValueError(
                    f"transkd: the {role}'s {type(config).__name__} has no stage_widths. It compares picture encoders "
                    "with stages, such as AVSegFormer's."
                )
        return cls(student_config.stage_widths, teacher_config.stage_widths, **options)

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"transkd_features": scalar, "transkd_embeddings": scalar}` from stages
        `(batch, frames, width, rows, columns)`; `labels` are not used.
        """
        maps = _stage_pairs("stage_maps", student_output, teacher_signal)
        embeddings = _stage_pairs("stage_embeddings", student_output, teacher_signal)
        with autocast_disabled(maps[0][0]):
            return {
                "transkd_features": self.weight * self._features_loss(maps),
                "transkd_embeddings": self.weight * self._embeddings_loss(embeddings),
            }

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "embedding_weights": list(self.embedding_weights),
            "fused_width": self.fused_width,
            "weight": self.weight,
        }

    def _features_loss(self, maps: list[tuple[Tensor, Tensor]]) -> Tensor:
        losses, above = [], None
        for fusion, (student, teacher) in zip(reversed(self.fusions), reversed(maps), strict=True):
            compared, above = fusion(student, above)
            losses.append(pyramid_loss(compared, teacher))
        return torch.stack(losses).sum()

    def _embeddings_loss(self, embeddings: list[tuple[Tensor, Tensor]]) -> Tensor:
        losses = [
            weight * F.mse_loss(linear(student.movedim(1, -1)), teacher.movedim(1, -1))
            for weight, linear, (student, teacher) in zip(
                self.embedding_weights, self.embedding_maps, embeddings, strict=True
            )
        ]
        return torch.stack(losses).sum()


class SelectiveFusion(nn.Module):
    """
    Brings a student's map to the width of the teacher's. With a map from the stage above it, channel weights computed
    from the sum of both, which add to 1, choose between the two (class `SK` of the official `train/CSF.py`).

    Batch statistics are those of the batch at hand, as always in training; none are kept, since nothing of this is
    ever evaluated. Of a single picture the official code squeezes with another layer that has no norm; here the same
    layer goes without its norm ([`BatchNormOfSeveral`]), and so do the convolutions of a map of one place.

    Args:
        width_from, fused_width, width_to: of the student's map, while it is fused, and of the teacher's map.
        from_above: whether there is a stage above.
    """

    def __init__(self, width_from: int, fused_width: int, width_to: int, from_above: bool) -> None:
        super().__init__()
        self.reduction = _convolution(width_from, fused_width, kernel_size=1)
        self.expansion = _convolution(fused_width, width_to, kernel_size=3)
        if from_above:
            squeezed = max(fused_width // 16, 32)
            self.squeeze = nn.Conv2d(fused_width, squeezed, kernel_size=1, bias=False)
            self.squeeze_norm = BatchNormOfSeveral(squeezed, track_running_stats=False)
            self.excitations = nn.ModuleList(nn.Conv2d(squeezed, fused_width, kernel_size=1) for _ in range(2))

    def forward(self, features: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        """
        Maps `(pictures, width_to, rows, columns)` and `(pictures, fused_width, rows, columns)`, for the stage below,
        of `features` `(pictures, width_from, rows, columns)` and the coarser fused map from above.
        """
        fused = self.reduction(features)
        if above is not None:
            both = torch.stack([fused, F.interpolate(above, size=fused.shape[-2:], mode="nearest")])
            fused = (both * self._channel_weights(both.sum(dim=0))).sum(dim=0)
        return self.expansion(fused), fused

    def _channel_weights(self, total: Tensor) -> Tensor:
        """`(2, pictures, fused_width, 1, 1)`, adding to 1 along the first."""
        squeezed = self.squeeze(total.mean(dim=(-2, -1), keepdim=True))
        squeezed = self.squeeze_norm(squeezed)
        return torch.stack([excitation(squeezed.relu()) for excitation in self.excitations]).softmax(dim=0)


class BatchNormOfSeveral(nn.BatchNorm2d):
    """Leaves maps alone that have one value per channel, of which there are no statistics."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(pictures, width, rows, columns)` of the same shape."""
        return maps if maps.numel() == maps.shape[1] else super().forward(maps)


def pyramid_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Mean squared error of maps `(pictures, width, rows, columns)`, and of both pooled to sides of 4, 2 and 1 where that
    is smaller, each counting half of the one before, divided by the sum of these weights (`hcl` of the official file).
    """
    loss, share, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in POOLED_SIDES:
        if side < student.shape[-2]:
            share /= 2
            total += share
            pooled = (F.adaptive_avg_pool2d(each, side) for each in (student, teacher))
            loss = loss + share * F.mse_loss(*pooled)
    return loss / total


def _convolution(width_from: int, width_to: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(width_from, width_to, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, BatchNormOfSeveral(width_to, track_running_stats=False))


def _stage_pairs(name: str, student_output: ModelOutput, teacher_signal: TeacherSignal) -> list[tuple[Tensor, Tensor]]:
    """Of each stage the pictures `(batch * frames, width, rows, columns)` of student and teacher, at one size."""
    student, teacher = student_output.get(name), getattr(teacher_signal, name)
    for role, stages in (("student", student), ("teacher", teacher)):
        if stages is None:
            raise ValueError(
                f"transkd needs the {name} of the {role}, which returned none. Call it with output_tokens=True."
            )
    pairs = []
    for ours, theirs in zip(student, teacher, strict=True):
        ours, theirs = at_least_float32(ours.flatten(0, 1)), at_least_float32(theirs.detach().flatten(0, 1))
        if ours.shape[-2:] != theirs.shape[-2:]:
            theirs = F.adaptive_avg_pool2d(theirs, ours.shape[-2:])
        pairs.append((ours, theirs))
    return pairs
