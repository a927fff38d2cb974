"""How every run ends: saved whole with its card and results, pushed where asked."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy

from ..hub import DataFacts, DistillationSummary, EvaluationResult, prepare_repository, push_to_hub, save_for_hub
from ..hub.distillation_summary import plain
from ..whole_files import write_whole
from .arguments import AudioVisualTrainingArguments
from .clip_data import ClipData
from .evaluation_arguments import EvaluationArguments

RESULTS_NAME = "results.json"
REPORT_NAME = "clips.json"
HYPER_PARAMETERS = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "balanced_sampling",
    "head_learning_rate_factor",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
)
TASK_HYPER_PARAMETERS = {
    "audio-visual-classification": ("label_smoothing_factor", "modality_dropout"),
    "audio-visual-segmentation": ("freeze", "freeze_epochs"),
}
SECRETS = ("--hub_token", "--hub-token")


def data_facts(data: ClipData) -> DataFacts:
    """What the card says of the clips."""
    return DataFacts(
        name=Path(data.args.dataset).name,
        clips={split: len(features) for split, features in data.features.items()},
        left_out={split: dict(counts) for split, counts in data.source.report.counts.items()},
        manifest_hash=data.source.report.manifest_hash,
        classes=len(data.label_names),
    )


def hyper_parameters(args: AudioVisualTrainingArguments, task: str, **further: Any) -> dict[str, Any]:
    """The options that a repetition of the run needs, and the `further` ones given."""
    names = HYPER_PARAMETERS + TASK_HYPER_PARAMETERS[task]
    values = {name: getattr(args, name) for name in names} | {"processes": args.world_size}
    return {name: getattr(value, "value", value) for name, value in values.items()} | further  # enums as text


def to_json(results: dict[str, Any]) -> str:
    """Strict JSON: a metric that is not finite (d-prime of a perfect AUC) becomes null."""
    return json.dumps(plain(results), indent=2, allow_nan=False)


def evaluation_results(
    split: str,
    args: EvaluationArguments,
    metrics: dict[str, dict[str, Any]],
    teacher: dict[str, dict[str, Any]] | None = None,
) -> list[EvaluationResult]:
    """One entry a modality, or control, for the card."""
    frames = {modality: 1 if modality == "audio" else args.frames for modality in metrics}
    return [
        EvaluationResult(
            split=split,
            metrics=values,
            teacher_metrics=(teacher or {}).get(modality, {}),
            modality=modality,
            frames=frames[modality],
            scores=_scores(args, values, frames[modality]),
        )
        for modality, values in metrics.items()
    ]


def _scores(args: EvaluationArguments, values: dict[str, Any], frames: int) -> str:
    """How the metrics were taken: for masks the protocol; softmax is what is averaged over frames."""
    if "mask_share" in values:
        return args.protocol
    return args.scores if frames == 1 else "softmax"


def save_run(
    trainer: Trainer,
    processor: ProcessorMixin,
    data: ClipData,
    summary: DistillationSummary,
    results: dict[str, Any],
) -> None:
    """
    Writes model, processor, card, `results.json`, the report of the clips (`clips.json`) and what was logged
    (`trainer_state.json`) into the run's `output_dir`, from the main process only.
    """
    args = trainer.args
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        save_for_hub(trainer.accelerator.unwrap_model(trainer.model), processor, args.output_dir, summary)
        write_whole(Path(args.output_dir) / RESULTS_NAME, to_json(results) + "\n")
        data.source.report.save(Path(args.output_dir) / REPORT_NAME)
        write_whole(Path(args.output_dir) / TRAINER_STATE_NAME, to_json(asdict(trainer.state)) + "\n")
    trainer.accelerator.wait_for_everyone()


def prepare_push(args: AudioVisualTrainingArguments) -> bool:
    """
    Whether the finished run is to be pushed. Its repository is made now: what would be refused is refused before the
    work. `args.push_to_hub` stays on where `hub_strategy` asks for pushes during training.

    Raises:
        PublishError: if the Hub refuses or cannot be reached.
    """
    push = args.push_to_hub
    if push and args.process_index == 0:
        private, name = bool(args.hub_private_repo), args.hub_model_id or Path(args.output_dir).name
        prepare_repository(name, private=private, token=args.hub_token, revision=args.hub_revision)
    args.push_to_hub = push and args.hub_strategy != HubStrategy.END
    return push


def publish_run(args: AudioVisualTrainingArguments) -> None:
    """Pushes the run's directory, without checkpoints, to `hub_model_id`."""
    push_to_hub(
        args.output_dir,
        args.hub_model_id or Path(args.output_dir).name,
        private=bool(args.hub_private_repo),
        token=args.hub_token,
        revision=args.hub_revision,
    )


def command_line() -> str:
    """The command that started this program, for the card: without an access token or where the script lies."""
    script = Path(sys.argv[0]).resolve()
    words = ["python", str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script.name)]
    for word, before in zip(sys.argv[1:], sys.argv, strict=False):
        option, separator, _ = word.partition("=")
        if before in SECRETS:
            word = "..."
        elif separator and option in SECRETS:
            word = f"{option}=..."
        words.append(word)
    return shlex.join(words)
