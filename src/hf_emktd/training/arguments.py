"""The options of every training run, as dataclasses for `HfArgumentParser`."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..distillation.kernels import KERNELS
from ..distillation.objectives import OBJECTIVES_OF_TASK
from ..distillation.token_distillation import BRANCHES
from .objectives import ALL_OBJECTIVES, build_objectives

BALANCES = ("none", "gradient")
NON_FINITE_LOSS = ("stop", "skip")


class WithoutToken:
    """Of options that are pickled into checkpoints: without the access token."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"hub_token": None}


@dataclass
class AudioVisualTrainingArguments(WithoutToken, TrainingArguments):
    """
    `TrainingArguments` for supervised training on sound and picture (teachers, and students trained on labels only).

    The defaults differ from `TrainingArguments` where an audio-visual run needs it: columns are filtered by the
    collator, unused parameters are looked for under DDP (a batch without sound leaves the audio branch without
    gradient), and the learning rate falls along a cosine. AdamW is the paper's optimiser; its learning rate for
    EM-KTD + KD on VGGSound is 1e-3; epochs, batch size and schedule are not given in the paper.

    Raises:
        ValueError: for a probability or factor outside its range, or an option of `TrainingArguments` that these
            trainers would not obey: `remove_unused_columns=True`, `eval_do_concat_batches=False`, or a
            `train_sampling_strategy` other than `"random"`.
    """

    output_dir: str = field(default="", metadata={"help": "Folder for the model, its card and checkpoints."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate of AdamW."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training split."})
    per_device_train_batch_size: int = field(default=48, metadata={"help": "Clips per device and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Clips per device in evaluation."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Warm-up: a number of steps, or below 1 a share of all steps."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Kept off: it waits for the accelerator in every step, and hides a loss that is not finite."
        },
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept on disk."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to go on from: a folder, or 'last' for the newest in output_dir that was saved to its "
            "end; where there is none yet, 'last' starts anew, with a warning. Objectives and their options must be "
            "those of the checkpoint."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: the teacher's inputs are not in the student's signature."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Kept on: a batch without one modality leaves that branch without gradient."}
    )
    hub_strategy: HubStrategy | str = field(
        default="end",
        metadata={
            "help": "With push_to_hub: 'end' pushes the finished run, with its card. 'every_save' also the model of "
            "every checkpoint, 'checkpoint' all of it too, to last-checkpoint/, 'all_checkpoints' each to its folder."
        },
    )
    balanced_sampling: bool = field(
        default=False,
        metadata={"help": "Draw clips with weight 1000 / (class count + 0.01), with replacement (CAV-MAE's recipe)."},
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Probability that one step trains the model on sound only or picture only (half each), so that "
            "one checkpoint also serves a single modality. 0, as in the paper."
        },
    )
    head_learning_rate_factor: float = field(
        default=1.0,
        metadata={"help": "Learning rate of the head over that of the rest; CAV-MAE fine-tunes with 10."},
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "Parts that are not trained: audio_encoder (as AVSegFormer's VGGish), visual_encoder."},
    )
    freeze_epochs: int = field(
        default=0,
        metadata={
            "help": "Epochs in which the visual encoder stays as it is; AVSegFormer takes 5 of 30 on S4 and 10 of 60 "
            "on MS3, with pre-trained weights."
        },
    )
    non_finite_loss: str = field(
        default="stop",
        metadata={
            "help": "What a batch does whose loss is NaN or infinite: 'stop' ends the run and names its clips, 'skip' "
            "leaves the batch out of the gradient, names its clips and counts it as skipped_batches in the log."
        },
    )

    def __post_init__(self):
        check_non_finite_loss(self.non_finite_loss)
        self.dataloader_pin_memory = self.dataloader_pin_memory and can_pin_memory()
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"modality_dropout is a probability between 0 and 1, got {self.modality_dropout}.")
        if self.head_learning_rate_factor <= 0:
            raise ValueError(f"head_learning_rate_factor must be positive, got {self.head_learning_rate_factor}.")
        if self.freeze_epochs < 0:
            raise ValueError(f"freeze_epochs must not be negative, got {self.freeze_epochs}.")
        _check_loading(self)
        super().__post_init__()


@dataclass
class DistillationArguments(AudioVisualTrainingArguments):
    """
    Options of [`EMKTDTrainer`]: which objectives are summed with the task loss, and their constants.

    Objectives and constants are the paper's (EM-KTD + KD, Huber threshold 1, RBF kernel with gamma 0.5) where it
    states them. Its weights (333 for KTD + KD, 666 for EM-KTD + KD, 12 on AVSBench) belong to its scale of data and
    widths: `--config scripts/recipes/paper.yaml` restores them. The default divides each branch by the spread of the
    teacher's own Gram matrices, so that a weight means the same for every kernel, width and data set, and takes the
    weights that docs/results.md supports.

    Raises:
        ValueError: for an unknown objective, kernel or branch, or a constant outside its range.
    """

    objective: list[str] = field(
        default_factory=lambda: ["em_ktd", "kd"],
        metadata={"help": f"Objectives added to the task loss: {', '.join(ALL_OBJECTIVES)}; 'none' for labels only."},
    )
    objective_options: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME.FIELD=VALUE for options without a flag: at.weight=100 mtst.temperature=0.2."},
    )
    task_weight: float = field(default=1.0, metadata={"help": "Weight of the loss on the labels."})
    kd_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of logit distillation; by default 10 for events and a student from scratch, else 1. Not "
            "given in the paper."
        },
    )
    kd_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Temperature of logit distillation; by default 4 for events, 1 for masks. Not in the paper."
        },
    )
    ktd_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of ktd and em_ktd, in units of ktd_scale; by default 10 for events and a student from "
            "scratch, else 1. In the paper 333, 666 and, for masks, 12 without a scale."
        },
    )
    clip_ktd_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of clip_ktd and em_clip_ktd, in units of ktd_scale; by default 10 for events and a "
            "student from scratch, else 1. Not in the paper."
        },
    )
    ktd_scale: str = field(
        default="teacher_spread",
        metadata={
            "help": "'teacher_spread' divides each branch by the spread of the teacher's Gram matrices, measured on "
            "calibration clips: 1 then means no better than a constant matrix. 'none' is the paper's plain form."
        },
    )
    ktd_kernel: str = field(
        default="rbf",
        metadata={
            "help": f"Kernel between unit tokens: {', '.join(KERNELS)}, or 'auto': every objective whose kernel no "
            "objective_options set gets the one of the paper's four, at one or ten times its weight, that is best on "
            "the validation split after a run with each, eight before the run itself."
        },
    )
    ktd_gamma: float = field(default=0.5, metadata={"help": "Gamma of the RBF kernel."})
    ktd_degree: int = field(default=2, metadata={"help": "Degree of the polynomial kernel."})
    ktd_constant: float = field(
        default=1.0, metadata={"help": "Constant of the polynomial kernel. Not given in the paper."}
    )
    ktd_sliding_window: bool = field(
        default=False, metadata={"help": "Compare Gram matrices inside nine half-side windows (9/16 of the work)."}
    )
    huber_delta: float = field(default=1.0, metadata={"help": "Threshold of the Huber comparison."})
    branches: list[str] = field(
        default_factory=lambda: list(BRANCHES), metadata={"help": "Branches whose tokens are distilled."}
    )
    entropy_lambda: float = field(
        default=0.5,
        metadata={"help": "Lambda of the branch weight exp(-lambda * entropy in nats). Not given in the paper."},
    )
    balance: str = field(
        default="none",
        metadata={
            "help": "'gradient' weights every objective so that its gradient on the student's tokens is balance_share "
            "times as long as that of the labels, measured in the first steps; weights of objectives then do not "
            "matter. 'none' keeps their weights, as in the paper."
        },
    )
    balance_share: float = field(default=1.0, metadata={"help": "Of balance=gradient: 1 pulls as hard as the labels."})
    balance_steps: int = field(default=50, metadata={"help": "Of balance=gradient: steps that are measured."})
    calibration_clips: int = field(
        default=256, metadata={"help": "Clips on which ktd_scale='teacher_spread' is measured before training."}
    )

    def __post_init__(self):
        if self.objective == ["none"]:
            self.objective = []
        _check_objective(self.objective)
        _check_constants(self)
        if self.task_weight < 0:
            raise ValueError(f"task_weight must not be negative, got {self.task_weight}.")
        _check_balance(self)
        if self.calibration_clips < 1:
            raise ValueError(f"calibration_clips must be at least 1, got {self.calibration_clips}.")
        super().__post_init__()


def can_pin_memory() -> bool:
    """Whether there is an accelerator to pin memory for; without one every data loader would warn of it."""
    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type != "mps"


def check_non_finite_loss(action: str) -> None:
    """Raises `ValueError` for an unknown `non_finite_loss`."""
    if action not in NON_FINITE_LOSS:
        raise ValueError(f"non_finite_loss must be one of {', '.join(NON_FINITE_LOSS)}, got {action!r}.")


def _check_loading(args: AudioVisualTrainingArguments) -> None:
    if args.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns=True would take the teacher's inputs and the labels out of the batches; leave "
            "it off, the collator picks what is used."
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"train_sampling_strategy must be 'random', got {args.train_sampling_strategy!r}: an epoch's order is "
            "drawn from data_seed; balanced_sampling=True balances it. For another one override get_train_dataloader."
        )
    if not args.eval_do_concat_batches:
        raise ValueError(
            "eval_do_concat_batches must be True, got False: metrics are made from a whole split in one piece. Leave "
            "it out."
        )


def _check_objective(names: list[str]) -> None:
    unknown = [name for name in names if name not in ALL_OBJECTIVES]
    if unknown:
        raise ValueError(
            f"objective: unknown {', '.join(unknown)}; known are {', '.join(ALL_OBJECTIVES)}, and 'none' by itself."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"objective: {', '.join(names)} names one twice; change its weight instead.")


def _check_balance(args: DistillationArguments) -> None:
    if args.balance not in BALANCES:
        raise ValueError(f"unknown balance {args.balance!r}; known are {', '.join(BALANCES)}.")
    if not args.balance_share > 0:
        raise ValueError(f"balance_share must be positive, got {args.balance_share}.")
    if args.balance_steps < 1:
        raise ValueError(f"balance_steps must be at least 1, got {args.balance_steps}.")


def _check_constants(args: DistillationArguments) -> None:
    """Builds the objectives once for models of a size that suits all, so that a bad constant is found at once."""
    tasks = [task for task, known in OBJECTIVES_OF_TASK.items() if set(args.objective) <= set(known)]
    if not tasks:
        raise ValueError(f"objective: no task has all of {', '.join(args.objective)}; see docs/objectives.md.")
    config = SimpleNamespace(
        task=tasks[0],
        branch_grids=dict.fromkeys(BRANCHES, ((4, 4),)),
        branch_widths=dict.fromkeys(BRANCHES, 8),
        stage_widths=(8, 8, 8, 8),
        num_labels=2,
        id2label={0: "0", 1: "1"},
    )
    build_objectives(args, config, config)
