"""Trains the entropy monitor: linear probes on a frozen teacher's tokens, before distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..data.collators import AudioVisualCollator, NamingCollator
from ..distillation.entropy_monitor import SEGMENTATION, EntropyMonitor, EntropyMonitorConfig
from ..distillation.teacher import LiveTeacher, fingerprint
from ..distillation.token_distillation import token_grids
from ..whole_files import written_whole
from .arguments import WithoutToken, can_pin_memory, check_non_finite_loss
from .clip_data import TEST, TRAIN, VALIDATION, ClipData
from .finite_losses import STOP, check_finite, finite_clips
from .monitor_statistics import clip_statistics, entropy_statistics, mask_statistics
from .prepare import prepare_frozen
from .resuming import ResumableTrainer

logger = logging.get_logger(__name__)


@dataclass
class EntropyMonitorArguments(WithoutToken, TrainingArguments):
    """
    Options of [`EntropyMonitorTrainer`]. The paper trains the probes with cross entropy and cosine annealing; rate,
    epochs and batch size are not given. A pass costs a matrix product, so the defaults take many.

    Thirty epochs are 60 steps for 300 clips, too few to leave the entropy of guessing, so smaller sets take the steps
    that 4,000 clips get, and larger ones are left alone. On simulated tokens of 300 clips in ten classes, 480 steps
    instead of 60 lower the cross entropy of unseen clips from 1.9 to 1.0 nats at width 48, from 1.1 to 0.3 at 192 and
    from 0.3 to 0.1 at 768; on masks of 300 frames at width 256 the IoU of visual tokens rises from 0.09 to 0.71. Twice
    the steps gain little more there, and make a sound's probe sure of masks that it does not know. Teachers narrower
    than about 100 need more steps or a higher rate: entropies in the statistics near `log(classes)` are the sign.

    Raises:
        ValueError: if `min_steps` is negative.
    """

    output_dir: str = field(default="", metadata={"help": "Folder for the monitor."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate of AdamW."})
    num_train_epochs: float = field(default=30.0, metadata={"help": "Passes over the pooled tokens."})
    min_steps: int = field(
        default=480,
        metadata={"help": "Least optimiser steps: small sets take more epochs. 0 leaves num_train_epochs alone."},
    )
    per_device_train_batch_size: int = field(
        default=256, metadata={"help": "Clips per step of the probes, or labelled frames where they tell masks."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Clips per forward of the teacher."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Cosine annealing, as in the paper."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    save_strategy: str = field(default="no", metadata={"help": "The probes are retrained in seconds."})
    logging_steps: float = field(default=0.05, metadata={"help": "Log every such share of all steps: twenty lines."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every probe is trained in every step."}
    )
    non_finite_loss: str = field(
        default="stop",
        metadata={
            "help": "What a clip does whose tokens of the teacher are NaN or infinite: 'stop' ends the run and names "
            "it, 'skip' leaves it out with a warning."
        },
    )

    def __post_init__(self):
        check_non_finite_loss(self.non_finite_loss)
        self.dataloader_pin_memory = self.dataloader_pin_memory and can_pin_memory()
        if self.min_steps < 0:
            raise ValueError(f"min_steps must not be negative, got {self.min_steps}.")
        super().__post_init__()

    @classmethod
    def within(cls, args: TrainingArguments, output_dir: str) -> Self:
        """
        The defaults, on the machine and in the precision of the run `args`: accelerate refuses two precisions in one
        process, and the monitor should see the tokens that distillation will see.
        """
        names = ("seed", "bf16", "fp16", "use_cpu", "dataloader_num_workers", "disable_tqdm", "report_to")
        names += ("non_finite_loss",)
        return cls(output_dir=output_dir, **{name: getattr(args, name) for name in names})


class EntropyMonitorTrainer(ResumableTrainer):
    """
    Trainer of an [`EntropyMonitor`] on the tokens of a frozen teacher.

    The teacher runs once over each split and what the probes see is kept in memory, so that their many epochs cost
    next to nothing. Of clips with a class that is the mean token of each branch in float32: 3 kB a clip and branch at
    width 768. Of masks it is all tokens on the picture, in float16, of the labelled frames only: with AVSegFormer's
    choices 150 kB a frame at 224 x 224 pixels and 0.8 MB at 512 x 512, so 0.5 and 2.7 GB for the 3,452 training frames
    of AVSBench's S4; every process keeps the whole.

    Args:
        monitor: the probes to train.
        teacher: [`LiveTeacher`] without a monitor.
        args: [`EntropyMonitorArguments`].
        train_dataset, eval_dataset: items with `input_values`, `pixel_values` and `label`, or of masks `labels`.
        data_collator: makes batches of those items.
        kwargs: those of [`~transformers.Trainer`].

    After `train()`, `monitor.config.statistics` holds per branch, on both splits, the accuracy and the mean, deviation
    and quartiles of the entropy in nats; of masks also the `iou`, see [`mask_statistics`], with every labelled frame
    a clip of its own.

    Raises:
        ValueError: if the clips lack sound or picture, or no frame has a label.
        FloatingPointError: if the teacher's tokens of a clip are not finite, unless such clips are skipped.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        monitor: EntropyMonitor,
        teacher: LiveTeacher,
        args: EntropyMonitorArguments,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        data_collator: Callable[[list[Any]], dict[str, Tensor]],
        **kwargs,
    ):
        self.branches = list(monitor.probes)
        self.tells_masks = monitor.config.task == SEGMENTATION
        super().__init__(
            model=monitor,
            args=args,
            data_collator=self._collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        teacher = prepare_frozen(self.accelerator, teacher)
        self.train_dataset = self.keep(teacher, train_dataset, data_collator)
        self.eval_dataset = self.keep(teacher, eval_dataset, data_collator)
        self.args.num_train_epochs = self._epochs()

    def keep(
        self, teacher: LiveTeacher, dataset: Dataset, collator: Callable[[list[Any]], dict[str, Tensor]]
    ) -> TensorDataset:
        """
        What the probes see of each branch, then what they have to tell, from one pass of the teacher: mean tokens
        `(clips, width)` and labels `(clips,)`; or of masks, with one row a labelled frame, tokens
        `(rows, 1, positions, width)` and shares of sounding pixels `(rows, 1, rows, columns)` of each branch. Every
        rank runs a share and gets the whole.
        """
        loader = DataLoader(
            dataset,
            batch_size=self.args.per_device_eval_batch_size,
            collate_fn=NamingCollator(collator),
            num_workers=self.args.dataloader_num_workers,
        )
        loader = self.accelerator.prepare(loader)
        columns = []
        for batch in tqdm(loader, desc="Teacher tokens", disable=not self.accelerator.is_local_main_process):
            tokens = teacher(**batch).tokens
            self._check_branches(tokens)
            own = [*self._columns(tokens, batch["labels"]), self._usable(tokens, batch.get("clip_ids"))]
            *gathered, usable = self.accelerator.gather_for_metrics(own)
            gathered = [column[usable > 0] for column in gathered]
            kept = _labelled_frames(gathered) if self.tells_masks else gathered
            columns.append([column.cpu() for column in kept])
        dataset = TensorDataset(*(torch.cat(column) for column in zip(*columns, strict=True)))
        if not len(dataset):
            raise ValueError("no frame of the split has a label: the monitor's probes learn from labelled frames.")
        return dataset

    def _usable(self, tokens: dict[str, Tensor], clip_ids: list[str] | None) -> Tensor:
        """1 for clips with finite tokens, else 0, `(clips,)`."""
        try:
            check_finite("the teacher's tokens are", tokens.values(), clip_ids)
        except FloatingPointError as error:
            if self.args.non_finite_loss == STOP:
                raise
            logger.warning(f"{error} They are left out.")
        return finite_clips(tokens.values()).long()

    def _columns(self, tokens: dict[str, Tensor], labels: Tensor) -> list[Tensor]:
        features = self.model.features(tokens).values()
        if not self.tells_masks:
            return [*features, labels]
        return [*(_to_float16(feature) for feature in features), *self.model.targets(labels).values()]

    def _check_branches(self, tokens: dict[str, Tensor]) -> None:
        missing = [branch for branch in self.branches if branch not in tokens]
        if missing:
            raise ValueError(
                f"the clips give the teacher no {', '.join(missing)} tokens: a monitor needs clips with sound and "
                "picture. Distil with 'ktd' or 'kd' instead, which need no monitor."
            )

    def _epochs(self) -> float:
        args = self.args
        clips_per_step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        steps_per_epoch = math.ceil(len(self.train_dataset) / clips_per_step)
        return max(args.num_train_epochs, math.ceil(args.min_steps / steps_per_epoch))

    def _collate(self, items: list[tuple[Tensor, ...]]) -> dict[str, dict[str, Tensor] | Tensor]:
        return self._batch([torch.stack(column) for column in zip(*items, strict=True)])

    def _batch(self, columns: list[Tensor]) -> dict[str, dict[str, Tensor] | Tensor]:
        count = len(self.branches)
        tokens, targets = columns[:count], columns[count:]
        labels = dict(zip(self.branches, targets, strict=True)) if self.tells_masks else targets[0]
        return {"tokens": dict(zip(self.branches, tokens, strict=True)), "labels": labels}

    def train(self, *args, **kwargs) -> TrainOutput:
        """As [`Trainer.train`], and measures the statistics."""
        result = super().train(*args, **kwargs)
        splits = {"train": self.train_dataset, "eval": self.eval_dataset}
        self.model.config.statistics = {name: self.statistics(split) for name, split in splits.items()}
        return result

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        # Trainer's estimate reads one input tensor, ours are a dict by branch; the probes cost nothing anyway.
        return 0

    @torch.no_grad()
    def statistics(self, kept: TensorDataset) -> dict[str, dict[str, Any]]:
        """By branch what [`EntropyMonitorTrainer`] says of the statistics."""
        monitor = self.model.eval()
        outputs = []
        for columns in zip(
            *(column.split(self.args.per_device_train_batch_size) for column in kept.tensors), strict=True
        ):
            outputs.append(monitor(self._batch([column.to(self.args.device) for column in columns])["tokens"]))
        labels = self._batch(list(kept.tensors))["labels"]
        summaries = {}
        for branch in self.branches:
            logits = torch.cat([output.logits[branch].cpu() for output in outputs])
            entropies = torch.cat([output.entropies[branch].cpu() for output in outputs])
            told = mask_statistics(logits, labels[branch]) if self.tells_masks else clip_statistics(logits, labels)
            summaries[branch] = told | entropy_statistics(entropies)
        return summaries


def _labelled_frames(columns: list[Tensor]) -> list[Tensor]:
    """Of columns `(clips, frames, ...)`, the last of them shares of sounding pixels, `(labelled frames, 1, ...)`."""
    labelled = (columns[-1] >= 0).flatten(2).all(dim=2)
    return [column[labelled].unsqueeze(1) for column in columns]


def _to_float16(tokens: Tensor) -> Tensor:
    # An infinite token would make every weight of its probe NaN.
    largest = torch.finfo(torch.float16).max
    return tokens.clamp(-largest, largest).half()


def train_monitor(
    teacher: PreTrainedModel,
    data: ClipData,
    args: EntropyMonitorArguments,
    hidden_layers: int = 0,
    entropy_over: str = "frame",
) -> EntropyMonitor:
    """
    Trains a monitor for `teacher` on the training split, measures it on the validation split (the test split where
    there is none: the measurement chooses nothing) and saves it to `args.output_dir`.
    """
    config = EntropyMonitorConfig(
        task=teacher.config.task,
        branch_widths=dict(teacher.config.branch_widths),
        branch_grids=token_grids(teacher.config),
        mask_grid=getattr(teacher.config, "mask_grid", None),
        id2label=teacher.config.id2label,
        hidden_layers=hidden_layers,
        entropy_over=entropy_over,
        teacher_name_or_path=teacher.config._name_or_path,
        teacher_fingerprint=fingerprint(teacher),
    )
    trainer = EntropyMonitorTrainer(
        EntropyMonitor(config),
        LiveTeacher(teacher),
        args,
        train_dataset=data.plain_views(TRAIN),
        eval_dataset=data.plain_views(VALIDATION if VALIDATION in data.features else TEST),
        data_collator=AudioVisualCollator(),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    _save_whole(trainer)
    return trainer.accelerator.unwrap_model(trainer.model)


def _save_whole(trainer: EntropyMonitorTrainer) -> None:
    folder = trainer.args.output_dir
    with written_whole(Path(folder)) if trainer.args.should_save else nullcontext(folder) as unfinished:
        trainer.save_model(str(unfinished))
