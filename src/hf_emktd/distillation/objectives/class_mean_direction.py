"""Norm and direction of features (ND)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..kernels import SHORTEST_TOKEN, unit_tokens
from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES, Grids, token_grids
from .base import check_positive
from .class_logits import target_classes
from .projections import width_projections
from .token_objective import GridObjective


class ClassMeanDirection(GridObjective):
    r"""
    \\(1 - \langle s, c_y / \|c_y\| \rangle / \max(\|s\|, \|t\|)\\) of each clip, mean over the batch, where s and t
    are the means of a branch's student and teacher tokens and \\(c_y\\) is the mean of t over clips of the class y
    (Wang et al., 2023; official file `CIFAR/utils.py`, class `DirectNormLoss`, of
    WangYZ1608/Knowledge-Distillation-via-ND). The student's feature shall point where its class points and be at least
    as long as the teacher's; cosine kernels see no length.

    The paper takes the feature before the classifier; here it is the mean of a branch's tokens, on the student's
    grids, so that both sides weigh sound and picture of the fusion branch alike. Where the widths differ, s is mapped
    to the teacher's by a learned linear map without bias, which the source leaves open.

    Class means are measured by `calibrate` on the clips' labels, after mixup each clip counting for both its classes,
    and are saved with a run. The official code takes all training clips; a class that no calibration clip shows lends
    the direction of the clip's own t instead, and `to_dict` counts such classes. In training the larger label is the
    class y.

    Args:
        student_grids (`dict[str, tuple[tuple[int, int], ...]]`): see [`~distillation.token_grids`].
        student_widths, teacher_widths (`dict[str, int]`): by branch the width of the tokens.
        num_labels (`int`): number of classes.
        clips_per_class (`int`, *optional*, defaults to 10):
            Calibration takes at least as many clips times the number of classes. Our choice.
        weight (`float`, *optional*, defaults to 1.0): the official default; its scripts take 1 to 4.
        branches (`Sequence[str]`, *optional*, defaults to all three): those that are distilled.

    Raises:
        ValueError: for an option outside its range.
        RuntimeError: from `forward`, before `calibrate`.
    """

    name = "nd"
    compares = "pooled tokens: direction of their class's mean, length of the teacher's"
    source = "https://arxiv.org/abs/2305.17007"
    citation = """@article{wang2023improving,
  title={Improving Knowledge Distillation via Regularizing Feature Norm and Direction},
  author={Wang, Yuzhu and Cheng, Lechao and Duan, Manni and Wang, Yongheng and Feng, Zunlei and Kong, Shu},
  journal={arXiv preprint arXiv:2305.17007},
  year={2023}
}"""

    def __init__(
        self,
        student_grids: Grids,
        student_widths: Mapping[str, int],
        teacher_widths: Mapping[str, int],
        num_labels: int,
        clips_per_class: int = 10,
        weight: float = 1.0,
        branches: Sequence[str] = BRANCHES,
    ) -> None:
        super().__init__(student_grids, weight, branches)
        check_positive(self, num_labels=num_labels, clips_per_class=clips_per_class)
        self.projections = width_projections(self.branches, student_widths, teacher_widths)
        self.num_labels = num_labels
        self.calibration_clips = clips_per_class * num_labels
        self._measured = False
        for branch in self.branches:
            # zero for a class that no clip showed
            self.register_buffer(f"{branch}_class_means", torch.zeros(num_labels, teacher_widths[branch]))

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the student's grids, the widths of both and the number of classes."""
        return cls(
            token_grids(student_config),
            student_config.branch_widths,
            teacher_config.branch_widths,
            student_config.num_labels,
            **options,
        )

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"nd_audio": scalar, ...}`, one for each branch of which the student returned tokens, from them and labels,
        int64 `(batch,)` or float `(batch, classes)`.
        """
        return super().forward(student_output, replace(teacher_signal, labels=labels))

    @property
    def requires_calibration(self) -> bool:
        return not any(self._means(branch).any() for branch in self.branches)

    @torch.no_grad()
    def calibrate(self, signals: Iterable[TeacherSignal]) -> None:
        """
        Measures the class means on the labels of `signals`.

        Raises:
            ValueError: if there are no signals with tokens of the branches, or signals without labels.
        """
        sums = {branch: torch.zeros(self._means(branch).shape, dtype=torch.float64) for branch in self.branches}
        clips = torch.zeros(self.num_labels, 1, dtype=torch.float64)
        for signal in signals:
            shares = _class_shares(signal.labels, self.num_labels)
            clips += shares.sum(dim=0).unsqueeze(1)
            for branch in self.branches:
                if branch in signal.tokens:
                    sums[branch] += shares.T @ self._teacher_features(branch, signal).double().cpu()
        for branch, total in sums.items():
            self._means(branch).copy_(total / clips.where(clips > 0, 1.0))
        if self.requires_calibration:
            raise ValueError(f"calibrate got no teacher tokens of {self.branches}; pass the signals of some clips.")

    def to_dict(self) -> dict[str, Any]:
        unseen = {branch: int((self._means(branch) == 0).all(dim=1).sum()) for branch in self.branches}
        return super().to_dict() | {"calibration_clips": self.calibration_clips, "classes_without_mean": unseen}

    def _branch_loss(self, branch: str, student_tokens: Tensor, teacher_signal: TeacherSignal) -> Tensor:
        self._check_measured()
        targets = target_classes(teacher_signal.labels, self.num_labels)
        student = self.projections[branch](student_tokens.mean(dim=1))
        teacher = self._teacher_features(branch, teacher_signal)
        means = self._means(branch)[targets].to(teacher.dtype)
        directions = unit_tokens(torch.where(means.any(dim=1, keepdim=True), means, teacher))
        lengths = torch.maximum(*(torch.linalg.vector_norm(feature, dim=1) for feature in (student, teacher)))
        return 1 - ((student * directions).sum(dim=1) / lengths.clamp_min(SHORTEST_TOKEN)).mean()

    def _teacher_features(self, branch: str, teacher_signal: TeacherSignal) -> Tensor:
        return self._pooled_teacher_tokens(branch, teacher_signal).mean(dim=1)

    def _means(self, branch: str) -> Tensor:
        return getattr(self, f"{branch}_class_means")

    def _check_measured(self) -> None:
        # Reading the buffers' values waits for the accelerator, so it is done once.
        self._measured = self._measured or not self.requires_calibration
        if not self._measured:
            raise RuntimeError(
                "ClassMeanDirection has not measured the class means. Call calibrate(signals) with the teacher's "
                "signals for some clips, labels included, before training."
            )


def _class_shares(labels: Tensor | None, num_labels: int) -> Tensor:
    """How much of each clip belongs to each class, float64 `(batch, classes)` on the CPU."""
    if labels is None:
        raise ValueError("calibrate needs the labels of the clips: set `labels` of every TeacherSignal.")
    labels = labels.cpu()
    return (labels if labels.is_floating_point() else F.one_hot(labels, num_labels)).double()
