"""Trainers for audio-visual models: supervised, and distilled from a frozen teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from transformers.trainer_utils import TrainOutput
from transformers.utils import ModelOutput, logging

from ..data.augmentation import balanced_sample_weights
from ..data.collators import NamingCollator
from ..data.processes import fork_without_garbage
from ..distillation.cached_teacher import CachedTeacher
from ..distillation.objectives import DistillationObjective
from ..distillation.teacher import LiveTeacher, TeacherSignal, branch_tokens, check_compatible
from .arguments import AudioVisualTrainingArguments, DistillationArguments
from .balance import GradientBalance
from .cached_views import CachedViews
from .finite_losses import SKIP, FiniteLosses, LookAfterLosses, check_finite, check_skipping, finite_clips
from .freezing import FreezeParts, freeze_parts
from .lora import inner_model
from .loss_log import LossLog
from .objective_state import (
    ClearGradients,
    add_to_optimizer,
    check_backend,
    load_objectives,
    save_objectives,
    share_gradients,
)
from .objectives import AUTO, open_kernels
from .prepare import prepare_frozen
from .resuming import ResumableTrainer
from .streamed_views import StreamedViews, streamed_loader
from .tasks import task_of_config
from .views import ClipSampler, ClipViews

MODEL_INPUTS = ("input_values", "pixel_values")
# How many batches of an accelerator are looked at together: each look waits for it.
BATCHES_AT_ONCE = 64

logger = logging.get_logger(__name__)


class AudioVisualTrainer(ResumableTrainer):
    """
    Supervised training of an audio-visual model, with CAV-MAE's balanced sampling and steps on one modality only, and
    AVSegFormer's frozen encoders. The loss on the labels is that of the model's task ([`~training.tasks.Task`]).

    Args:
        model: any model that keeps the output contract of docs/architecture.md.
        args: [`AudioVisualTrainingArguments`].
        train_dataset: items with `input_values`, `pixel_values` and `label` (or `labels`, masks); of [`ClipViews`]
            and [`StreamedViews`] each epoch draws new views.
        processing_class: the model's processor, saved with every checkpoint.
        train_labels: int class ids of `train_dataset` in its order; needed with `balanced_sampling`.
        kwargs: those of [`~transformers.Trainer`]; `compute_metrics` gets logits and labels of the whole split, and is
            the task's own if it is left out.

    The loss is a mean per batch; the Trainer divides it by the number of accumulation steps. Order and views of an
    epoch depend on `data_seed` (or `seed`) and the epoch alone, so a resumed run repeats the uninterrupted one.

    Raises:
        ValueError: if balanced sampling lacks the labels, another learning rate is asked for a head that cannot be
            told from its model or with an optimizer of the caller's own, a part to freeze does not exist, or an
            option does not suit the task.
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
        _check_model(model)
        _check_sampling(args, train_labels, kwargs.get("train_dataset"))
        _check_head(model, args.head_learning_rate_factor, _given_optimizer(kwargs))
        self.task = task_of_config(model.config)
        self.task.check(args)
        freeze_parts(model, args.freeze)
        if kwargs.get("data_collator") is not None:
            kwargs["data_collator"] = NamingCollator(kwargs["data_collator"])
        kwargs.setdefault("compute_metrics", self.task.compute_metrics)
        # Not handed to Trainer: it looks for a tokenizer in every processor and fails on one without.
        super().__init__(model=model, args=args, **kwargs)
        self.processor = processing_class
        self.model_accepts_loss_kwargs = False  # nor does it count the labels of every step
        self.train_labels = train_labels
        self.loss_log = LossLog()
        at_once = 1 if self.args.device.type == "cpu" else BATCHES_AT_ONCE
        self.finite_losses = FiniteLosses(args.non_finite_loss, at_once)
        self.add_callback(LookAfterLosses(self.finite_losses, self.accelerator))
        check_skipping(args.non_finite_loss, self.accelerator)
        if args.non_finite_loss == SKIP:
            self.finite_losses.mask_gradients(self.model.parameters())
        self.current_gradient_accumulation_steps = args.gradient_accumulation_steps  # fewer at the end of an epoch
        self.epoch_of_sampler = _EpochOfSampler()
        self.add_callback(self.epoch_of_sampler)
        if args.freeze_epochs:
            self.add_callback(FreezeParts(model, args.freeze_epochs))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """As [`ResumableTrainer.train`]."""
        self.loss_log.reset()
        self.finite_losses.reset()
        with fork_without_garbage():  # the workers of the data loader
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def loss_parts(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], ModelOutput]:
        """
        Named scalar parts of the training loss for one batch, by branch the weights `(batch,)` of its clips where
        there are any, and the model's output.
        """
        outputs = model(**self.drop_modality(self.model_inputs(inputs)))
        return self.task.loss_parts(outputs, inputs["labels"], self.args), {}, outputs

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput | dict[str, Tensor]]:
        """Sum of `loss_parts` in training; in evaluation the plain loss on the labels, and the output's logits."""
        if not model.training:
            outputs = model(**self.model_inputs(inputs))
            loss = self.task.evaluation_loss(outputs, inputs["labels"], self.args)
            return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss
        parts, branch_weights, outputs = self.loss_parts(model, inputs)
        self.finite_losses.watch("student", outputs.logits)
        parts = self.finite_losses.checked(parts, inputs.get("clip_ids"), self.state.global_step)
        if self.args.non_finite_loss == SKIP:
            branch_weights = {branch: self.finite_losses.kept(w) for branch, w in branch_weights.items()}
        self.loss_log.add(parts, branch_weights, share=1 / self.current_gradient_accumulation_steps)
        loss = torch.stack(list(parts.values())).sum()
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """
        As [`Trainer.prediction_step`]; masks are summed up before they are gathered, for the task's own metrics.
        Other `compute_metrics` get logits and labels as they are, and so does who asks for clips without labels.
        """
        if inputs.get("labels") is None:
            loss, logits, labels = None, self._logits(model, inputs), None
        else:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only:
            return loss, None, None
        check_finite("the model's answer is", [logits], inputs.get("clip_ids"))
        is_summed_up = labels is not None and self.compute_metrics == self.task.compute_metrics
        return loss, *(self.task.for_metrics(logits, labels) if is_summed_up else (logits, labels))

    def _logits(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        own = self._prepare_inputs(self.model_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            return model(**own).logits

    def model_inputs(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """The trained model's own inputs: no labels, nothing that is for the teacher."""
        return {name: inputs[name] for name in MODEL_INPUTS if name in inputs}

    def drop_modality(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With probability `modality_dropout` leaves one of the inputs; the same choice in all batches of a step."""
        if self.args.modality_dropout == 0 or len(inputs) < 2:
            return inputs
        random = np.random.default_rng([self.args.seed, self.state.global_step])
        if random.random() >= self.args.modality_dropout:
            return inputs
        kept = MODEL_INPUTS[random.integers(2)]
        return {kept: inputs[kept]}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss parts to a training log line."""
        if "loss" in logs:
            logs.update(self.loss_log.pop_means())
            if self.args.non_finite_loss == SKIP:
                logs["skipped_batches"] = sum(gather_object([self.finite_losses.skipped]))
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As [`Trainer.create_optimizer`], with the head's learning rate times `head_learning_rate_factor`."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.args.head_learning_rate_factor != 1:
            backbone = inner_model(self.model).base_model
            _scale_head_learning_rate(optimizer, backbone, self.args.head_learning_rate_factor)
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.processor is not None and self.args.should_save:
            self.processor.save_pretrained(output_dir or self.args.output_dir)

    def get_train_dataloader(self) -> DataLoader:
        """As [`Trainer.get_train_dataloader`]; of [`StreamedViews`] every rank reads its own share."""
        if not isinstance(self.train_dataset, StreamedViews):
            return super().get_train_dataloader()
        self.epoch_of_sampler.sampler = self.train_dataset
        return streamed_loader(self.train_dataset, self.args, self.accelerator, self.data_collator)

    def _get_train_sampler(self, train_dataset=None) -> ClipSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        weights = None
        if self.args.balanced_sampling:
            weights = balanced_sample_weights(self.train_labels, max(self.train_labels) + 1)
        options = {"with_view_seeds": True, "num_views": dataset.num_views} if isinstance(dataset, ClipViews) else {}
        sampler = ClipSampler(len(dataset), seed, weights, **options)
        self.epoch_of_sampler.sampler = sampler
        return sampler


class EMKTDTrainer(AudioVisualTrainer):
    """
    Trains a student with its labels and what a frozen teacher knows of the same views.

    Args:
        model: the student.
        args: [`DistillationArguments`].
        teacher: [`~distillation.teacher.LiveTeacher`], or [`~distillation.cached_teacher.CachedTeacher`] with
            [`CachedViews`] as `train_dataset`; may be `None` when `objectives` is empty.
        objectives: modules of `distillation.objectives`; their parts are added to the task loss.
        kwargs: those of [`AudioVisualTrainer`].

    The teacher is not part of the student: it has no gradient, no optimiser state and is in no checkpoint. Objectives
    that need a scale are calibrated before the first step on `calibration_clips` random clips of the training split,
    the same clips on every rank and in a resumed run, so both find the same scale. Parameters of objectives
    (projections) are trained beside the student's and lie in every checkpoint, not in the student; an optimizer given
    with `optimizers` must hold them too.

    Raises:
        ValueError: if labels or token contracts of teacher and student do not fit, an objective needs entropies and
            the teacher has no monitor, two objectives share a name, a kernel is still to be chosen, or an optimizer
            that is given lacks parameters of an objective.
    """

    args: DistillationArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: DistillationArguments,
        *,
        teacher: LiveTeacher | CachedTeacher | None = None,
        objectives: Sequence[DistillationObjective] = (),
        **kwargs,
    ):
        _check_model(model)
        _check_objectives(objectives)
        _check_kernels(args, objectives)
        if objectives:
            _check_teacher(model, teacher, objectives)
            _check_cached(teacher, kwargs.get("train_dataset"))
        _check_optimizer(_given_optimizer(kwargs), objectives)
        super().__init__(model=model, args=args, **kwargs)
        self.objectives = nn.ModuleList(objectives).to(self.args.device)
        self.teacher = prepare_frozen(self.accelerator, teacher) if objectives else None
        self.is_balanced = args.balance == "gradient" and bool(objectives)
        self.needs_tokens = self.is_balanced or any(objective.requires_tokens for objective in objectives)
        check_backend(self.accelerator, self.objectives)
        share_gradients(self.objectives)
        if args.non_finite_loss == SKIP:
            self.finite_losses.mask_gradients(self.objectives.parameters())
        self.add_callback(ClearGradients(self.objectives))
        self.balance = GradientBalance([objective.name for objective in objectives], args.balance_share)
        self.balance.to(self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """As [`AudioVisualTrainer.train`], after `calibrate`."""
        self.calibrate()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def calibrate(self) -> None:
        """Lets objectives measure their scale on the teacher's signals, batch by batch."""
        for objective in self.objectives:
            if objective.requires_calibration:
                clips = max(self.args.calibration_clips, objective.calibration_clips)
                with _fixed_seed(self.args):
                    objective.calibrate(self._calibration_signals(clips))

    def _calibration_signals(self, num_clips: int) -> Iterator[TeacherSignal]:
        if isinstance(self.train_dataset, StreamedViews):
            views = self.train_dataset.first(num_clips)
        elif isinstance(self.train_dataset, IterableDataset):
            views = list(islice(self.train_dataset, num_clips))
        else:
            views = Subset(self.train_dataset, torch.randperm(len(self.train_dataset))[:num_clips].tolist())
        for batch in DataLoader(views, batch_size=self.args.train_batch_size, collate_fn=self.data_collator):
            inputs = self._prepare_inputs(batch)
            signal = self.teacher(**inputs)
            if self._is_usable(signal, inputs.get("clip_ids")):
                yield replace(signal, labels=inputs["labels"])

    def _is_usable(self, signal: TeacherSignal, clip_ids: Sequence[str] | None) -> bool:
        """Whether a batch can be calibrated on; one that cannot is left out, or ends the run, by `non_finite_loss`."""
        tensors = [signal.logits, *signal.tokens.values()]
        is_usable = bool(finite_clips(tensors).all())
        if not is_usable and self.args.non_finite_loss == SKIP:
            logger.warning("Some clips leave the teacher without a finite answer: their batch is not calibrated on.")
        elif not is_usable:
            check_finite("in calibration the teacher's answer is", tensors, clip_ids)
        return is_usable

    def loss_parts(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], ModelOutput]:
        """The task loss and the parts of every objective; see [`AudioVisualTrainer.loss_parts`]."""
        outputs = model(**self.drop_modality(self.model_inputs(inputs)), output_tokens=self.needs_tokens)
        on_labels = self.task.loss_parts(outputs, inputs["labels"], self.args)
        parts, branch_weights = {name: self.args.task_weight * part for name, part in on_labels.items()}, {}
        if self.teacher is not None:
            signal = self.teacher(**inputs)
            self.finite_losses.watch("teacher", signal.logits)
            distilled = {objective.name: objective(outputs, signal, inputs["labels"]) for objective in self.objectives}
            for objective_parts in self.balanced(distilled, parts, outputs).values():
                parts.update(objective_parts)
            for objective in self.objectives:
                branch_weights.update(objective.branch_weights(signal))
        used = {branch: w for branch, w in branch_weights.items() if getattr(outputs, f"{branch}_tokens") is not None}
        return parts, used, outputs

    def balanced(
        self, distilled: dict[str, dict[str, Tensor]], on_labels: dict[str, Tensor], outputs: ModelOutput
    ) -> dict[str, dict[str, Tensor]]:
        """The parts of every objective, weighted by [`~training.balance.GradientBalance`] where `balance` asks."""
        if not self.is_balanced:
            return distilled
        if self.state.global_step < self.args.balance_steps:
            losses = {name: torch.stack(list(parts.values())).sum() for name, parts in distilled.items()}
            tokens = [tokens for tokens in branch_tokens(outputs).values() if tokens.requires_grad]
            self.balance.measure(torch.stack(list(on_labels.values())).sum(), losses, tokens)
        factors = self.balance.factors()
        return {
            name: {part: factors[name] * value for part, value in parts.items()} for name, parts in distilled.items()
        }

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As [`AudioVisualTrainer.create_optimizer`], with the parameters of the objectives."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created:
            add_to_optimizer(optimizer, self.objectives)
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            save_objectives(self._with_balance(), output_dir)
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_objectives(self._with_balance(), checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _with_balance(self) -> nn.ModuleList:
        return nn.ModuleList([*self.objectives, *([self.balance] if self.is_balanced else [])])


class _EpochOfSampler(TrainerCallback):
    """
    Tells the sampler the epoch. The Trainer's own way through the data loader does not reach it when several
    processes resume in the middle of an epoch. Where there is none (an iterable data set, a loader of the caller's
    own) the data set is told, if it wants to know.
    """

    sampler: ClipSampler | StreamedViews | None = None

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        told = getattr(train_dataloader, "dataset", None) if self.sampler is None else self.sampler
        if hasattr(told, "set_epoch"):
            told.set_epoch(int(state.epoch))


def _check_model(model: PreTrainedModel | None) -> None:
    if model is None:
        raise ValueError(
            "expected a model, got None: pass the model itself, model=make(). model_init is not supported, since the "
            "task, the parts to freeze and the teacher are checked against the model when the trainer is made."
        )


def _check_sampling(args: AudioVisualTrainingArguments, train_labels: Sequence[int] | None, train_dataset) -> None:
    if args.balanced_sampling and isinstance(train_dataset, IterableDataset):
        raise ValueError(
            "balanced_sampling draws clips by their class, a stream comes in an order of its own: leave one of "
            "balanced_sampling and streaming (or another iterable data set) out."
        )
    if args.balanced_sampling and train_labels is None:
        raise ValueError("balanced_sampling=True needs train_labels, the class id of every training clip.")
    if train_labels is not None and isinstance(train_dataset, Sized) and len(train_labels) != len(train_dataset):
        raise ValueError(
            f"train_labels has {len(train_labels)} class ids for {len(train_dataset)} training clips; give one for "
            "each, in their order."
        )


def _check_head(model: PreTrainedModel, factor: float, optimizer: torch.optim.Optimizer | None) -> None:
    if factor != 1 and optimizer is not None:
        raise ValueError(
            f"head_learning_rate_factor={factor} is for the optimizer of the trainer, got one with optimizers: "
            "give the head a group of its own there and use 1, or leave the optimizer to the trainer."
        )
    if factor != 1 and model.base_model is model:
        raise ValueError(
            f"head_learning_rate_factor={factor} needs a model whose head can be told from the rest; "
            f"{type(model).__name__} has no module named by base_model_prefix {model.base_model_prefix!r}. Use 1."
        )


def _given_optimizer(options: dict[str, Any]) -> torch.optim.Optimizer | None:
    return (options.get("optimizers") or (None, None))[0]


def _check_optimizer(optimizer: torch.optim.Optimizer | None, objectives: Sequence[DistillationObjective]) -> None:
    if optimizer is None:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [
        objective.name
        for objective in objectives
        if any(parameter.requires_grad and id(parameter) not in held for parameter in objective.parameters())
    ]
    if left_out:
        raise ValueError(
            f"the optimizer given with optimizers lacks parameters of {', '.join(left_out)}, which would never be "
            "trained: add objective.parameters() of each to the optimizer, or leave the optimizer to the trainer."
        )


def _check_objectives(objectives: Sequence[DistillationObjective]) -> None:
    names = [objective.name for objective in objectives]
    if len(set(names)) < len(names):
        raise ValueError(f"every objective may be given once, got {', '.join(names)}; change its weight instead.")


def _check_kernels(args: DistillationArguments, objectives: Sequence[DistillationObjective]) -> None:
    undecided = open_kernels(objectives) if args.ktd_kernel == AUTO else []
    if undecided:
        raise ValueError(
            f"ktd_kernel={AUTO!r} leaves the kernel of {', '.join(objective.name for objective in undecided)} open: "
            "choose one with choose_kernel and its trial's settle(objectives), as scripts/distill.py does."
        )


def _check_teacher(
    student: PreTrainedModel,
    teacher: LiveTeacher | CachedTeacher | None,
    objectives: Sequence[DistillationObjective],
) -> None:
    names = ", ".join(type(objective).__name__ for objective in objectives)
    if teacher is None:
        raise ValueError(f"{names} need a teacher, got teacher=None.")
    check_compatible(student.config, teacher.config)
    teacher.check_serves(objectives)


def _check_cached(teacher: LiveTeacher | CachedTeacher, train_dataset: Dataset | None) -> None:
    if isinstance(teacher, CachedTeacher) and not (
        isinstance(train_dataset, CachedViews) and train_dataset.with_signals
    ):
        raise ValueError(
            "a cached teacher takes its signals from the batches: pass CachedViews(views, cache) as train_dataset and "
            f"SignalCollator() as data_collator, got {type(train_dataset).__name__}."
        )


def _scale_head_learning_rate(optimizer: torch.optim.Optimizer, backbone: nn.Module, factor: float) -> None:
    """Moves every parameter outside `backbone` to a group of its own that keeps the other options of its old one."""
    kept = {id(parameter) for parameter in backbone.parameters()}
    for group in list(optimizer.param_groups):
        head = [parameter for parameter in group["params"] if id(parameter) not in kept]
        if head:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) in kept]
            optimizer.add_param_group({**group, "params": head, "lr": group["lr"] * factor})


@contextmanager
def _fixed_seed(args: AudioVisualTrainingArguments) -> Iterator[None]:
    """
    Draws the calibration clips and their views from `args.seed`, and leaves the run's own random state, on the CPU
    and on a GPU of its own, as it was.
    """
    # others than CUDA keep one state, which fork_rng cannot ask for by device
    devices = [args.device] if args.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(args.seed)
        yield
