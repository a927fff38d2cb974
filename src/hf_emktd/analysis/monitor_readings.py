"""What a teacher's entropy monitor reads from each clip, and whether it and the teacher are right about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ..distillation.entropy_monitor import SEGMENTATION, entropy_weights
from ..distillation.teacher import LiveTeacher
from ..metrics import IGNORE_INDEX, frame_statistics, segmentation_metrics
from .clip_batches import clip_batches, device_at_hand

Batch = dict[str, Tensor]
# Of a batch and the position of its first clip, the batch with other inputs.
Change = Callable[[Batch, int], Batch]


@dataclass(frozen=True)
class Readings:
    """
    Of the clips of a split, in their order.

    Args:
        entropies: by branch, `(clips,)` in nats.
        probe_scores: by branch, `(clips,)`: 1 where the branch's own probe tells the right class, else 0; of masks its
            MJ on its own grid, NaN for a clip without a labelled frame.
        teacher_scores: the same of the teacher, whose masks are scored at full size.
    """

    entropies: dict[str, np.ndarray]
    probe_scores: dict[str, np.ndarray]
    teacher_scores: np.ndarray

    def weights(self, entropy_lambda: float) -> dict[str, np.ndarray]:
        """By branch the weight that EM-KTD gives each clip, `(clips,)`."""
        tensors = {branch: torch.from_numpy(value) for branch, value in self.entropies.items()}
        return {branch: weight.numpy() for branch, weight in entropy_weights(tensors, entropy_lambda).items()}


def read_monitor(
    teacher: LiveTeacher,
    views: datasets.Dataset,
    batch_size: int = 64,
    changes: Sequence[Change] = (lambda batch, first_clip: batch,),
    description: str = "Entropies",
) -> list[Readings]:
    """
    Readings of the clips after each of the `changes` to a batch's inputs, which are told the position of its first
    clip; by default one, of the clips as they are.

    Args:
        teacher: with a monitor.

    Raises:
        ValueError: without a monitor, or if the clips give the teacher no tokens of a branch that it probes.
    """
    if teacher.monitor is None:
        raise ValueError("the teacher has no entropy monitor to read; train one with scripts/train_monitor.py.")
    device = device_at_hand()
    teacher.to(device)
    parts: list[list[dict[str, Any]]] = [[] for _ in changes]
    for index, batch in enumerate(clip_batches(views, batch_size, device, description)):
        for part, change in zip(parts, changes, strict=True):
            part.append(_read_batch(teacher, change(batch, index * batch_size)))
    return [_joined(part) for part in parts]


@torch.inference_mode()
def _read_batch(teacher: LiveTeacher, batch: Batch) -> dict[str, Any]:
    labels = batch["labels"]
    signal = teacher(**batch)
    _check_branches(teacher, signal.tokens)
    told, probes = teacher.monitor(signal.tokens), teacher.monitor.probes
    if teacher.monitor.config.task == SEGMENTATION:
        scores = {
            branch: mask_scores(logits, _hard(probes[branch].targets(labels)))
            for branch, logits in told.logits.items()
        }
        teacher_scores = mask_scores(signal.logits, labels)
    else:
        scores = {branch: class_scores(logits, labels) for branch, logits in told.logits.items()}
        teacher_scores = class_scores(signal.logits, labels)
    entropies = {branch: value.cpu().numpy() for branch, value in told.entropies.items()}
    return {"entropies": entropies, "probe_scores": scores, "teacher_scores": teacher_scores}


def class_scores(logits: Tensor, labels: Tensor) -> np.ndarray:
    """1 where the largest of `(clips, classes)` is the label's, else 0: float64 `(clips,)`."""
    return (logits.argmax(dim=-1) == labels).double().cpu().numpy()


def mask_scores(logits: Tensor, labels: Tensor) -> np.ndarray:
    """MJ of each clip's labelled frames, float64 `(clips,)`, from maps `(clips, frames, rows, columns)`."""
    statistics = frame_statistics(logits, labels).cpu()
    labelled = (labels != IGNORE_INDEX).flatten(1).any(dim=1).cpu()
    scores = [
        segmentation_metrics(one[None])["MJ"] if known else np.nan
        for one, known in zip(statistics, labelled, strict=True)
    ]
    return np.array(scores)


def mean_score(scores: np.ndarray) -> float:
    """Over the clips that have a score; NaN where none has."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else float("nan")


def _hard(shares: Tensor) -> Tensor:
    """Labels of a probe's positions: sounding where at least half of the pixels are."""
    return torch.where(shares < 0, IGNORE_INDEX, (shares >= 0.5).long())


def _check_branches(teacher: LiveTeacher, tokens: dict[str, Tensor]) -> None:
    missing = [branch for branch in teacher.monitor.probes if branch not in tokens]
    if missing:
        raise ValueError(
            f"the clips give the teacher no {', '.join(missing)} tokens: entropies of all branches need clips with "
            "sound and picture."
        )


def _joined(parts: Sequence[dict[str, Any]]) -> Readings:
    columns = {
        name: {branch: np.concatenate([part[name][branch] for part in parts]) for branch in parts[0][name]}
        for name in ("entropies", "probe_scores")
    }
    return Readings(**columns, teacher_scores=np.concatenate([part["teacher_scores"] for part in parts]))
