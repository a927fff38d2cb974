"""How near a student is to its teacher on each clip: in what it answers and in how its tokens relate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..analysis.clip_batches import clip_batches, device_at_hand
from ..analysis.monitor_readings import class_scores, mask_scores
from ..distillation.kernels import TokenKernel, at_least_float32
from ..distillation.objectives.mask_logit_distillation import bernoulli_divergence, resize_logits
from ..distillation.teacher import LiveTeacher, TeacherSignal, branch_tokens
from ..distillation.token_distillation import (
    gram_spread,
    pool_branch,
    shared_branches,
    token_distillation_loss,
    token_grids,
)
from ..hub import DistillationSummary
from ..hub.distillation_summary import SEGMENTATION
from .at_hand import Clips, LoadedModel


@dataclass(frozen=True)
class ClipScores:
    """
    Of each clip, in the order of the views.

    Args:
        divergences: KL divergence of the student's answer from the teacher's in nats, `(clips,)`; of masks the mean
            over the pixels.
        gram_differences: by branch, `(clips,)`: the token distillation loss over what the mean clip's would be if the
            student's Gram matrix were constant; 0 where both are equal, 1 where nothing but the mean was learnt.
        student_scores, teacher_scores: 1 where the answer is the label's, else 0, `(clips,)`; of masks MJ, NaN
            without a labelled frame.
        labels: class of each clip, int64 `(clips,)`; of masks `None`, as are the following.
        student_answers, teacher_answers: likeliest class and its probability, `(clips, 2)`.
    """

    divergences: np.ndarray
    gram_differences: dict[str, np.ndarray]
    student_scores: np.ndarray
    teacher_scores: np.ndarray
    labels: np.ndarray | None = None
    student_answers: np.ndarray | None = None
    teacher_answers: np.ndarray | None = None

    @property
    def order(self) -> np.ndarray:
        """Clips by divergence, the most faithful first."""
        return self.divergences.argsort(kind="stable")


def score_clips(
    student: LoadedModel, teacher: LiveTeacher, clips: Clips, teacher_processor: Any, kernel: TokenKernel
) -> ClipScores:
    """[`ClipScores`] of all clips, one pass of both models."""
    parts = []
    for batch in paired_batches(student, clips, teacher_processor, "Student and teacher"):
        output, signal = answers(student, teacher, batch)
        parts.append(_score_batch(output, signal, batch, student.model.config, kernel))
    columns = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    differences, spreads = columns.pop("differences"), columns.pop("spreads")
    columns["gram_differences"] = {
        branch: value / max(spreads[branch].mean(), np.finfo(np.float32).tiny) for branch, value in differences.items()
    }
    return ClipScores(**columns)


def kernel_of(summary: DistillationSummary) -> TokenKernel:
    """The kernel the run compared Gram matrices with, or the default one."""
    kernels = [one.settings.get("kernel") for one in summary.objectives]
    return next((TokenKernel(**kernel) for kernel in kernels if isinstance(kernel, Mapping)), TokenKernel())


def paired_batches(
    student: LoadedModel, clips: Clips, teacher_processor: Any, description: str, only: list[int] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Batches with the inputs and labels of both models; of all clips, or of those at the places `only`."""
    device = device_at_hand()
    views = [clips.views(processor) for processor in (student.processor, teacher_processor)]
    if only is not None:
        views = [one.select(only) for one in views]
    batches = (
        clip_batches(one, clips.batch_size, device, name)
        for one, name in zip(views, (description, "Teacher"), strict=True)
    )
    for ours, theirs in zip(*batches, strict=True):
        yield ours | {f"teacher_{name}": value for name, value in theirs.items()}


@torch.inference_mode()
def answers(student: LoadedModel, teacher: LiveTeacher, batch: dict[str, Tensor]) -> tuple[ModelOutput, TeacherSignal]:
    """Of both models, with tokens."""
    device = device_at_hand()
    teacher.to(device)
    model = student.model.to(device).eval()
    inputs = {name: batch[name] for name in model.config.input_shapes if name in batch}
    return model(**inputs, output_tokens=True), teacher(**batch)


def paired_tokens(output: ModelOutput, signal: TeacherSignal, config: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """By shared branch the student's tokens and the teacher's on the student's grids."""
    grids, tokens = token_grids(config), branch_tokens(output)
    return {
        branch: (at_least_float32(tokens[branch]), pool_branch(branch, signal.tokens[branch], signal.grids, grids))
        for branch in shared_branches(grids, signal.grids)
        if branch in tokens and branch in signal.tokens
    }


def divergences(student_logits: Tensor, teacher_logits: Tensor, task: str) -> Tensor:
    """KL(teacher || student) of each clip in nats, `(clips,)`, float32; of masks the mean over its pixels."""
    student, teacher = student_logits.float(), teacher_logits.float()
    if task == SEGMENTATION:
        return bernoulli_divergence(student, resize_logits(teacher, student.shape[-2:])).flatten(1).mean(dim=1)
    logs = (F.log_softmax(logits, dim=-1) for logits in (student, teacher))
    return F.kl_div(*logs, reduction="none", log_target=True).sum(dim=-1)


def _score_batch(
    output: ModelOutput, signal: TeacherSignal, batch: dict[str, Tensor], config: Any, kernel: TokenKernel
) -> dict[str, Any]:
    tokens = paired_tokens(output, signal, config)
    part = {
        "divergences": divergences(output.logits, signal.logits, config.task).cpu().numpy(),
        "differences": {
            branch: token_distillation_loss(*pair, kernel).cpu().numpy() for branch, pair in tokens.items()
        },
        "spreads": {branch: gram_spread(theirs, kernel).cpu().numpy() for branch, (_, theirs) in tokens.items()},
    }
    score = mask_scores if config.task == SEGMENTATION else class_scores
    # masks of the two have the sizes of their own pictures
    part["student_scores"] = score(output.logits, batch["labels"])
    part["teacher_scores"] = score(signal.logits, batch["teacher_labels"])
    if config.task != SEGMENTATION:
        part |= {"student_answers": _likeliest(output.logits), "teacher_answers": _likeliest(signal.logits)}
        part["labels"] = batch["labels"].cpu().numpy()
    return part


def _likeliest(logits: Tensor) -> np.ndarray:
    probability, index = logits.double().softmax(dim=-1).max(dim=-1)
    return torch.stack([index.double(), probability], dim=-1).cpu().numpy()


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)
