"""What a trainer does differently for events and for masks: the loss on the labels and what metrics are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedConfig
from transformers.utils import ModelOutput

from ..metrics import compute_event_metrics, compute_mask_metrics, preprocess_mask_logits
from ..models.avsegformer import segmentation_loss
from .arguments import AudioVisualTrainingArguments


def task_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """
    Mean cross entropy over the clips of a batch, in float32.

    Args:
        logits: `(batch, classes)`.
        labels: int64 `(batch,)`, or float `(batch, classes)` probabilities (mixup).
        label_smoothing: mass spread evenly over the classes. CAV-MAE sets the true class to `1 - smoothing` exactly;
            here it is `1 - smoothing + smoothing / classes`, as in torch.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


class Task(ABC):
    """
    The loss on the labels of one kind of model, and how its evaluation is summed up.

    Args:
        config: the model's.
    """

    name: ClassVar[str]
    # the metric that decides between models, and the one that decides between equals
    deciding_metrics: ClassVar[tuple[str, str]]
    unsuited: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def check(self, args: AudioVisualTrainingArguments) -> None:
        """Raises `ValueError` for an option that has no meaning for the task."""
        for name in self.unsuited:
            if getattr(args, name):
                raise ValueError(
                    f"{name}={getattr(args, name)} is of no use in {self.name}, which needs sound and picture and "
                    f"hard masks. Set {name}=0; --silence_probability trains a model for silence."
                )

    @abstractmethod
    def loss_parts(
        self, outputs: ModelOutput, labels: Tensor, args: AudioVisualTrainingArguments
    ) -> dict[str, Tensor]:
        """Named scalar parts of the training loss, already weighted."""

    @abstractmethod
    def evaluation_loss(self, outputs: ModelOutput, labels: Tensor, args: AudioVisualTrainingArguments) -> Tensor:
        """The plain loss on the labels."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of a whole split from what `for_metrics` kept of each batch."""

    def for_metrics(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What is gathered of a batch's logits and labels for `compute_metrics`."""
        return logits, labels


class EventClassification(Task):
    """Cross entropy; accuracy, mAP, mAUC and d'."""

    name = "audio-visual-classification"
    deciding_metrics = ("accuracy", "mAP")

    def loss_parts(
        self, outputs: ModelOutput, labels: Tensor, args: AudioVisualTrainingArguments
    ) -> dict[str, Tensor]:
        return {"task": task_loss(outputs.logits, labels, args.label_smoothing_factor)}

    def evaluation_loss(self, outputs: ModelOutput, labels: Tensor, args: AudioVisualTrainingArguments) -> Tensor:
        return task_loss(outputs.logits, labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return compute_event_metrics(prediction)


class Segmentation(Task):
    """The loss that the config names (Dice, binary cross entropy or both, with AVSegFormer's auxiliary); MJ and MF."""

    name = "audio-visual-segmentation"
    deciding_metrics = ("MJ", "MF")
    unsuited = ("modality_dropout", "label_smoothing_factor")

    def loss_parts(
        self, outputs: ModelOutput, labels: Tensor, args: AudioVisualTrainingArguments
    ) -> dict[str, Tensor]:
        parts = segmentation_loss(
            outputs.logits, outputs.mask_features, labels, self.config.mask_loss, self.config.auxiliary_weight
        )
        return {"task": parts["mask"], "auxiliary": parts["auxiliary"]}

    def evaluation_loss(self, outputs: ModelOutput, labels: Tensor, args: AudioVisualTrainingArguments) -> Tensor:
        return self.loss_parts(outputs, labels, args)["task"]

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return compute_mask_metrics(prediction)

    def for_metrics(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Some hundred numbers a frame; of the labels nothing is needed beside them."""
        return preprocess_mask_logits(logits, labels), torch.zeros(len(logits), device=logits.device)


TASKS: dict[str, type[Task]] = {task.name: task for task in (EventClassification, Segmentation)}


def task_of_config(config: PreTrainedConfig | Any) -> Task:
    """
    The task of a model, by its config's `task`; a config without one is a classifier's.

    Raises:
        ValueError: if the task is unknown.
    """
    name = getattr(config, "task", EventClassification.name)
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r} of {type(config).__name__}; known are {', '.join(TASKS)}.")
    return TASKS[name](config)
