"""Writes a model for other runtimes, checks it against PyTorch and prints sizes, latencies and memory.

    python scripts/export.py --model runs/student --output_dir export
    python scripts/export.py --model runs/student --format onnx onnx-int8 --modalities both audio visual \\
        --teacher runs/teacher --dataset clips.csv --output_dir export

Formats: onnx (opset 20), onnx-int8 (linear layers in int8), torch-export (.pt2) and executorch (.pte, needs executorch
in the environment). The number of clips stays free, that of frames too in a model of masks; executorch takes one clip.
Logits must be those of the model to 1e-4, but for int8, whose loss --dataset shows. Beside the model lie what the
processor does as a graph (sound.onnx) and as constants (preprocessing.json), and standalone.py, which runs it all
without PyTorch. `hf_emktd.export.OnnxModel.from_pretrained(output_dir)` is the model of a pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hf_emktd.export import (
    FORMATS,
    MODALITIES,
    ExportedFile,
    ExportError,
    Measurement,
    RunnerModel,
    comparison_table,
    export_model,
    measure,
    write_preprocessing,
)
from hf_emktd.hub.distillation_summary import SEGMENTATION, write_whole
from hf_emktd.training import (
    DataArguments,
    EvaluationArguments,
    evaluate_model,
    load_model,
    open_clips,
    parse_arguments,
    to_json,
)
from hf_emktd.training.interruption import AGAIN, ending_in_one_line
from hf_emktd.training.refusals import refusals_in_one_line
from hf_emktd.whole_files import written_whole


@dataclass
class ExportArguments:
    """
    Which model, in which formats, compared with what.

    Raises:
        ValueError: without a model, for an unknown format or modality, or a number below 1.
    """

    model: str | None = field(default=None, metadata={"help": "Directory of the model. Required."})
    format: list[str] = field(
        default_factory=lambda: ["onnx"], metadata={"help": f"One or more: {', '.join(FORMATS)}."}
    )
    modalities: list[str] = field(
        default_factory=lambda: ["both"],
        metadata={"help": "What the files are given, one file each: both, audio, visual. The weights are in each."},
    )
    output_dir: str = field(default="export", metadata={"help": "Folder of the files."})
    teacher: str | None = field(default=None, metadata={"help": "Directory of a model to be measured beside it."})
    repetitions: int = field(default=20, metadata={"help": "Timed passes of each."})
    split: str = field(default="test", metadata={"help": "Split of --dataset that accuracies are measured on."})

    def __post_init__(self) -> None:
        if self.model is None:
            raise ValueError("--model is needed: the directory of a trained model")
        for name, known in (("format", FORMATS), ("modalities", MODALITIES)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(unknown) or 'none'}.")
        if self.repetitions < 1:
            raise ValueError(f"repetitions must be at least 1, got {self.repetitions}.")


def main() -> None:
    args, data_args = parse_arguments((ExportArguments, DataArguments), __doc__)
    folder = Path(args.output_dir)
    with refusals_in_one_line():
        for name in filter(None, (args.model, args.teacher)):
            if not Path(name, "config.json").is_file():
                raise ValueError(f"{name} is no directory of a model; download it first with `hf download`.")
        model, processor = load_model(args.model, dtype=torch.float32)
        try:
            with written_whole(folder) as unfinished:
                written = export_model(model, unfinished, args.format, args.modalities)
                write_preprocessing(model.config, processor, unfinished)
        except ExportError as error:
            raise ValueError(str(error)) from error
    files = [replace(file, path=folder / file.path.name) for file in written]
    names = {"model": args.model} | ({"teacher": args.teacher} if args.teacher else {})
    rows = measure(names, files, args.repetitions)
    metric = None
    if data_args.dataset is not None:
        metric = "MJ" if model.config.task == SEGMENTATION else "accuracy"
        rows = scored(rows, names, files, args.split, data_args, metric)
    table = comparison_table(rows, metric)
    write_whole(folder / "export.json", to_json([row.to_dict() for row in rows]) + "\n")
    print(f"{table}\n\n{torch.get_num_threads()} threads; written to {folder}: {', '.join(names_of(folder))}")


def scored(
    rows: list[Measurement],
    names: dict[str, str],
    files: list[ExportedFile],
    split: str,
    data_args: DataArguments,
    metric: str,
) -> list[Measurement]:
    """The rows with the metric of each on the data set."""
    loaded = {name: load_model(folder, dtype=torch.float32) for name, folder in names.items()}
    runners = {(file.format, file.modality): file for file in files}
    result = []
    for row in rows:
        model, processor = loaded[row.model]
        data = open_clips(data_args, processor, model_config=model.config, only_split=split)
        file = runners.get((row.format, row.modality))
        tested = model if file is None else RunnerModel(model.config, file.load(model.config))
        options = EvaluationArguments(split=split, controls=["none"], modalities=[row.modality])
        result.append(replace(row, score=evaluate_model(tested, data, options)[row.modality][metric]))
    return result


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


if __name__ == "__main__":
    with ending_in_one_line(AGAIN):
        main()
