"""Trainers for audio-visual models: supervised, and distilled from a frozen teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler
from transformers import PreTrainedModel, ProcessorMixin, Trainer
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import ModelOutput

from ..data.augmentation import balanced_sample_weights
from ..distillation.objectives import DistillationObjective
from ..distillation.teacher import LiveTeacher, TeacherSignal, check_compatible
from .arguments import AudioVisualTrainingArguments, DistillationArguments
from .loss_log import LossLog
from .prepare import prepare_frozen

MODEL_INPUTS = ("input_values", "pixel_values")


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


def last_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint of a run, `None` before its first."""
    return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None


class AudioVisualTrainer(Trainer):
    """
    Supervised training of an audio-visual classifier, with CAV-MAE's balanced sampling and steps on one modality only.

    Args:
        model: any model that keeps the output contract of docs/architecture.md.
        args: [`AudioVisualTrainingArguments`].
        train_dataset: items with `input_values`, `pixel_values` and `label`, as [`~data.augmentation.ClipTransform`]
            makes them.
        processing_class: the model's processor, saved with every checkpoint.
        train_labels: int class ids of `train_dataset` in its order; needed with `balanced_sampling`.

    The loss is a mean per batch; the Trainer divides it by the number of accumulation steps.
    """

    # Without it the Trainer takes the loss of a model whose forward has **kwargs as already divided by the number of
    # accumulation steps, and four steps train with four times the gradient.
    loss_is_scaled_for_ga = False
    args: AudioVisualTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: AudioVisualTrainingArguments,
        *,
        train_labels: Sequence[int] | None = None,
        processing_class: ProcessorMixin | None = None,
        **kwargs,
    ):
        # Not handed to Trainer: it looks for a tokenizer in every processor and fails on one without.
        super().__init__(model=model, args=args, **kwargs)
        self.processor = processing_class
        self.model_accepts_loss_kwargs = False
        if args.balanced_sampling and train_labels is None:
            raise ValueError("balanced_sampling=True needs train_labels, the class id of every training clip.")
        self.train_labels = train_labels
        self.loss_log = LossLog(self.accelerator)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """As [`Trainer.train`]; `resume_from_checkpoint="last"` takes the newest checkpoint if there is one."""
        if resume_from_checkpoint == "last":
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def loss_parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], ModelOutput]:
        """Named scalar parts of the training loss for one batch, and the model's output."""
        outputs = model(**self.drop_modality(self.model_inputs(inputs)))
        return {"task": task_loss(outputs.logits, inputs["labels"], self.args.label_smoothing_factor)}, outputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:
            outputs = model(**self.model_inputs(inputs))
            loss = task_loss(outputs.logits, inputs["labels"])
            return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss
        parts, outputs = self.loss_parts(model, inputs)
        self.loss_log.add({f"loss_{name}": part for name, part in parts.items()})
        loss = torch.stack(list(parts.values())).sum()
        return (loss, outputs) if return_outputs else loss

    def model_inputs(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """The trained model's own inputs: no labels, nothing that is for the teacher."""
        return {name: inputs[name] for name in MODEL_INPUTS if name in inputs}

    def drop_modality(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With probability `modality_dropout` leaves one of the inputs; the same choice on every rank of a step."""
        if self.args.modality_dropout == 0 or len(inputs) < 2:
            return inputs
        generator = np.random.default_rng([self.args.seed, self.state.global_step])
        if generator.random() >= self.args.modality_dropout:
            return inputs
        kept = MODEL_INPUTS[generator.integers(2)]
        return {kept: inputs[kept]}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.loss_log.pop_means())
        super().log(logs, start_time)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.args.head_learning_rate_factor != 1:
            _scale_head_learning_rate(optimizer, self.model.classifier, self.args.head_learning_rate_factor)
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.processor is not None:
            self.processor.save_pretrained(output_dir or self.args.output_dir)

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        if not self.args.balanced_sampling:
            return super()._get_train_sampler(train_dataset)
        weights = balanced_sample_weights(self.train_labels, self.model.config.num_labels)
        return WeightedRandomSampler(weights, num_samples=len(weights), replacement=True)


class EMKTDTrainer(AudioVisualTrainer):
    """
    Trains a student with its labels and what a frozen teacher knows of the same views.

    Args:
        model: the student.
        args: [`DistillationArguments`].
        teacher: [`~distillation.teacher.LiveTeacher`]; may be `None` when `objectives` is empty.
        objectives: modules of `distillation.objectives`; their parts are added to the task loss.

    The teacher is not part of the student: it has no gradient, no optimiser state and is in no checkpoint. Objectives
    that need a scale are calibrated before the first step on the first `calibration_clips` of the training split, the
    same clips on every rank, so a resumed run finds the same scale.

    Raises:
        ValueError: if labels or token contracts of teacher and student do not fit, or an objective needs entropies
            and the teacher has no monitor.
    """

    args: DistillationArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: DistillationArguments,
        *,
        teacher: LiveTeacher | None = None,
        objectives: list[DistillationObjective] = (),
        **kwargs,
    ):
        _check_teacher(model, teacher, objectives)
        super().__init__(model=model, args=args, **kwargs)
        self.objectives = nn.ModuleList(objectives).to(self.args.device)
        self.teacher = prepare_frozen(self.accelerator, teacher) if self.objectives else None
        self.needs_tokens = any(objective.requires_tokens for objective in self.objectives)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        self.calibrate()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def calibrate(self) -> None:
        """Lets the objectives that need a scale measure it on the teacher's signals, a batch at a time."""
        for objective in self.objectives:
            if objective.requires_calibration:
                with _fixed_seed(self.args.seed):
                    objective.calibrate(self._calibration_signals())

    def _calibration_signals(self) -> Iterator[TeacherSignal]:
        count = min(self.args.calibration_clips, len(self.train_dataset))
        clips = torch.utils.data.Subset(self.train_dataset, range(count))
        for batch in DataLoader(clips, batch_size=self.args.train_batch_size, collate_fn=self.data_collator):
            yield self.teacher(**self._prepare_inputs(batch))

    def loss_parts(self, model, inputs):
        student_inputs = self.drop_modality(self.model_inputs(inputs))
        outputs = model(**student_inputs, output_tokens=self.needs_tokens)
        task = task_loss(outputs.logits, inputs["labels"], self.args.label_smoothing_factor)
        parts = {"task": self.args.task_weight * task}
        if self.objectives:
            signal = self.teacher(**inputs)
            for objective in self.objectives:
                parts.update(objective(outputs, signal, inputs["labels"]))
                weights = objective.branch_weights(signal)
                self.loss_log.add({f"weight_{branch}": weight.mean() for branch, weight in weights.items()})
        return parts, outputs


def _check_teacher(student: PreTrainedModel, teacher: LiveTeacher | None, objectives) -> None:
    if not objectives:
        return
    names = ", ".join(type(objective).__name__ for objective in objectives)
    if teacher is None:
        raise ValueError(f"{names} need a teacher, got teacher=None.")
    check_compatible(student.config, teacher.model.config)
    if teacher.monitor is None and any(objective.requires_entropies for objective in objectives):
        raise ValueError(f"{names} need branch entropies: pass LiveTeacher(model, monitor=EntropyMonitor(...)).")


def _scale_head_learning_rate(optimizer: torch.optim.Optimizer, head: nn.Module, factor: float) -> None:
    in_head = {id(parameter) for parameter in head.parameters()}
    for group in list(optimizer.param_groups):
        head_parameters = [p for p in group["params"] if id(p) in in_head]
        if head_parameters:
            group["params"] = [p for p in group["params"] if id(p) not in in_head]
            optimizer.add_param_group({**group, "params": head_parameters, "lr": group["lr"] * factor})


@contextmanager
def _fixed_seed(seed: int) -> Iterator[None]:
    """Draws the views of the calibration clips from `seed`, and leaves the run's own random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
