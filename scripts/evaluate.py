"""Evaluate a model: accuracy, mAP, mAUC and d' with both senses, with sound only and with picture only; of masks MJ
and MF, and the two controls that show whether a model listens: the sound of another clip, and silence.

    python scripts/evaluate.py --model runs/student --teacher runs/teacher
    python scripts/evaluate.py --model runs/student --dataset clips.csv --split validation --modalities both
    accelerate launch scripts/evaluate.py --model org/emktd-student --dataset vggsound --data_dir DIR --frames 10
    python scripts/evaluate.py --model runs/avs-student --dataset avsbench --data_dir DIR

Prints one JSON object and writes it to evaluation.json in the model's folder. With a teacher it also holds the
teacher's metrics on the same clips and the retention, student / teacher. The clips are those the model's config names
unless --dataset does. Results on the clips that the model's card is about are entered there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, ProcessorMixin

from hf_emktd.data.features import same_inputs
from hf_emktd.hub import DistillationSummary, EvaluationResult, update_results
from hf_emktd.hub.distillation_summary import SUMMARY_NAME, write_whole
from hf_emktd.training import (
    ClipData,
    DataArguments,
    EvaluationArguments,
    check_labels,
    check_modalities,
    evaluate_model,
    evaluation_results,
    load_model,
    open_clips,
    parse_arguments,
    to_json,
)
from hf_emktd.training.process_group import end_process_group, run_launched
from hf_emktd.training.refusals import refusals_in_one_line

logger = logging.getLogger(__name__)
OUTPUT_NAME = "evaluation.json"
Metrics = dict[str, dict[str, Any]]


@dataclass
class ModelArguments:
    """
    What is evaluated, and where the answer goes.

    Raises:
        ValueError: without a model.
    """

    model: str | None = field(default=None, metadata={"help": "Directory or Hub id of the model. Required."})
    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of a teacher to compare with."})
    output: str | None = field(
        default=None,
        metadata={
            "help": f"File for the result; by default {OUTPUT_NAME} in the model's folder, or, for a model from the "
            "Hub, in a folder of its name under runs/."
        },
    )
    card: bool = field(
        default=True,
        metadata={"help": "Enter the results in the card of a model saved here, if they are on the card's own clips."},
    )

    def __post_init__(self):
        if self.model is None:
            raise ValueError("--model is needed: the directory or Hub id of a trained model")
        if self.output is None:
            folder = Path(self.model) if Path(self.model).is_dir() else Path("runs") / Path(self.model).name
            self.output = str(folder / OUTPUT_NAME)


def main() -> None:
    models, data_args, args = parse_arguments((ModelArguments, DataArguments, EvaluationArguments), __doc__)
    # without a GPU, processes find each other only if told so
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    with refusals_in_one_line(), accelerator.main_process_first():
        model, processor = load_model(models.model)
        check_modalities(args, model.config)
        data_args.fill_from(model.config)
        data = load_data(data_args, model, processor, args)
        if models.teacher is not None:
            teacher, teacher_processor = load_model(models.teacher)
            check_modalities(args, teacher.config)
            teacher_data = data_for_teacher(data, teacher, teacher_processor, args)
    metrics = evaluate_model(model, data, args)
    teacher_metrics = None if models.teacher is None else evaluate_model(teacher, teacher_data, args)
    if accelerator.is_main_process:
        results = evaluation_results(data.evaluation_split(args.split), args, metrics, teacher_metrics)
        text = to_json(report(models, data, args, results, metrics, teacher_metrics))
        print(text)
        Path(models.output).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(models.output), text + "\n")
        if models.card:
            enter_in_card(models, data, results)


def load_data(
    data_args: DataArguments, model: PreTrainedModel, processor: ProcessorMixin, args: EvaluationArguments
) -> ClipData:
    """The clips as `model` is given them; refused if its classes are others or the split is empty."""
    data = open_clips(data_args, processor, model_config=model.config, only_split=args.split)
    data.split(data.evaluation_split(args.split))  # refuses a split without a usable clip
    return data


def data_for_teacher(
    data: ClipData, teacher: PreTrainedModel, processor: ProcessorMixin, args: EvaluationArguments
) -> ClipData:
    """The same clips in the teacher's sizes, so that the model's numbers are the same with and without a teacher."""
    if not same_inputs(processor, data.processor):
        return load_data(data.args, teacher, processor, args)
    check_labels(data, teacher.config)
    return data


def report(
    models: ModelArguments,
    data: ClipData,
    args: EvaluationArguments,
    results: list[EvaluationResult],
    metrics: Metrics,
    teacher_metrics: Metrics | None,
) -> dict[str, Any]:
    """All that is printed and written."""
    content = {
        "model": models.model,
        "teacher": models.teacher,
        "dataset": data.args.dataset,
        "manifest_hash": data.source.report.manifest_hash,
        "split": data.evaluation_split(args.split),
        "frames": args.frames,
        "scores": {result.modality: result.scores for result in results},
        "results": metrics,
    }
    if teacher_metrics is not None:
        content["teacher_results"] = teacher_metrics
        content["retention"] = {result.modality: result.retention for result in results}
    return content


def enter_in_card(models: ModelArguments, data: ClipData, results: list[EvaluationResult]) -> None:
    """Only what the card is about: its own clips, and the teacher that the model was distilled from."""
    if not Path(models.model, SUMMARY_NAME).is_file():
        return
    summary = DistillationSummary.load(models.model)
    if summary.data is None or summary.data.manifest_hash != data.source.report.manifest_hash:
        logger.warning(f"The card of {models.model} is about other clips than these and stays as it is.")
        return
    if models.teacher is not None and not is_teacher_of_card(models.teacher, summary):
        logger.warning(
            f"The card of {models.model} names another teacher than {models.teacher}: it is left out there."
        )
        results = [replace(result, teacher_metrics={}) for result in results]
    update_results(models.model, *results)


def is_teacher_of_card(name: str, summary: DistillationSummary) -> bool:
    """Whether the teacher that a card names is this directory or Hub id."""
    if summary.teacher is None:
        return False
    return name == summary.teacher.name or Path(name).resolve() == Path(summary.teacher.name).resolve()


if __name__ == "__main__":
    run_launched(main)
    end_process_group()
