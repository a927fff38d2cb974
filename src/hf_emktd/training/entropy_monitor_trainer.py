"""Trains the entropy monitor: linear probes on a frozen teacher's tokens, before distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ..data.collators import AudioVisualCollator
from ..distillation.entropy_monitor import EntropyMonitor, EntropyMonitorConfig
from ..distillation.teacher import LiveTeacher, fingerprint
from .clip_data import TEST, TRAIN, VALIDATION, ClipData
from .prepare import prepare_frozen


@dataclass
class EntropyMonitorArguments(TrainingArguments):
    """
    Options of [`EntropyMonitorTrainer`]. The paper trains the probes with cross entropy and cosine annealing; rate,
    epochs and batch size are not given. A pass costs a matrix product, so the defaults take many. They suit thousands
    of clips; with some hundred, raise rate or epochs until the entropies in the statistics leave `log(classes)`.
    """

    output_dir: str = field(default="", metadata={"help": "Folder for the monitor."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate of AdamW."})
    num_train_epochs: float = field(default=30.0, metadata={"help": "Passes over the pooled tokens."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Clips per step of the probes."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Clips per forward of the teacher."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Cosine annealing, as in the paper."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    save_strategy: str = field(default="no", metadata={"help": "The probes are retrained in seconds."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every probe is trained in every step."}
    )

    @classmethod
    def within(cls, args: TrainingArguments, output_dir: str) -> Self:
        """
        The defaults, on the machine and in the precision of the run `args`: accelerate refuses two precisions in one
        process, and the monitor should see the tokens that distillation will see.
        """
        names = ("seed", "bf16", "fp16", "use_cpu", "dataloader_num_workers", "disable_tqdm", "report_to")
        return cls(output_dir=output_dir, **{name: getattr(args, name) for name in names})


class EntropyMonitorTrainer(Trainer):
    """
    Trainer of an [`EntropyMonitor`] on the mean-pooled tokens of a frozen teacher.

    The teacher runs once over each split and its pooled tokens, `(clips, width)` a branch, are kept in memory (3 kB
    a clip and branch at width 768), so that the probes' many epochs cost next to nothing.

    Args:
        monitor: the probes to train.
        teacher: [`LiveTeacher`] without a monitor.
        args: [`EntropyMonitorArguments`].
        train_dataset, eval_dataset: items with `input_values`, `pixel_values`, `label`.
        data_collator: makes batches of those items.
        kwargs: those of [`~transformers.Trainer`].

    After `train()`, `monitor.config.statistics` holds per branch the accuracy on both splits and the mean, deviation
    and quartiles of the entropy in nats.

    Raises:
        ValueError: if the clips lack sound or picture.
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
        self.train_dataset = self.pool(teacher, train_dataset, data_collator)
        self.eval_dataset = self.pool(teacher, eval_dataset, data_collator)

    def pool(
        self, teacher: LiveTeacher, dataset: Dataset, collator: Callable[[list[Any]], dict[str, Tensor]]
    ) -> TensorDataset:
        """
        Mean tokens `(clips, width)` of each branch, float32, and labels `(clips,)`, from one pass of the teacher;
        every rank runs a share and gets the whole.
        """
        loader = DataLoader(
            dataset,
            batch_size=self.args.per_device_eval_batch_size,
            collate_fn=collator,
            num_workers=self.args.dataloader_num_workers,
        )
        loader = self.accelerator.prepare(loader)
        columns = []
        for batch in tqdm(loader, desc="Teacher tokens", disable=not self.accelerator.is_local_main_process):
            tokens = teacher(**batch).tokens
            self._check_branches(tokens)
            pooled = [tokens[branch].float().mean(dim=1) for branch in self.branches]
            gathered = self.accelerator.gather_for_metrics([*pooled, batch["labels"]])
            columns.append([column.cpu() for column in gathered])
        return TensorDataset(*(torch.cat(column) for column in zip(*columns, strict=True)))

    def _check_branches(self, tokens: dict[str, Tensor]) -> None:
        missing = [branch for branch in self.branches if branch not in tokens]
        if missing:
            raise ValueError(
                f"the clips give the teacher no {', '.join(missing)} tokens: a monitor needs clips with sound and "
                "picture. Distil with 'ktd' or 'kd' instead, which need no monitor."
            )

    def _collate(self, items: list[tuple[Tensor, ...]]) -> dict[str, dict[str, Tensor] | Tensor]:
        *pooled, labels = (torch.stack(column) for column in zip(*items, strict=True))
        return {"tokens": dict(zip(self.branches, pooled, strict=True)), "labels": labels}

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
    def statistics(self, pooled: TensorDataset) -> dict[str, dict[str, Any]]:
        """By branch the probe's accuracy and the mean, deviation and quartiles of its entropy in nats."""
        *columns, labels = pooled.tensors
        monitor = self.model.eval()
        tokens = {name: column.to(self.args.device) for name, column in zip(self.branches, columns, strict=True)}
        output = monitor(tokens)
        return {branch: _summary(output.logits[branch], output.entropies[branch], labels) for branch in self.branches}


def _summary(logits: Tensor, entropies: Tensor, labels: Tensor) -> dict[str, Any]:
    entropies = entropies.cpu().numpy()
    correct = logits.argmax(dim=-1).cpu() == labels
    low, median, high = np.quantile(entropies, [0.25, 0.5, 0.75])
    return {
        "accuracy": correct.float().mean().item(),
        "entropy_mean": float(entropies.mean()),
        "entropy_std": float(entropies.std()),
        "entropy_quartiles": [float(low), float(median), float(high)],
    }


def train_monitor(
    teacher: PreTrainedModel, data: ClipData, args: EntropyMonitorArguments, hidden_layers: int = 0
) -> EntropyMonitor:
    """
    Trains a monitor for `teacher` on the training split, measures it on the validation split (the test split where
    there is none: the measurement chooses nothing) and saves it to `args.output_dir`.
    """
    config = EntropyMonitorConfig(
        branch_widths=dict(teacher.config.branch_widths),
        id2label=teacher.config.id2label,
        hidden_layers=hidden_layers,
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
    trainer.train()
    trainer.save_model()
    return trainer.accelerator.unwrap_model(trainer.model)
