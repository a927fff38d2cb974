"""Writes a model in other formats, checks what was written against it, and measures all beside it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from ..search.measurement import MEGABYTE, RESET, peak_growth
from .formats import FORMATS, ExportError, Runner
from .graphs import LogitsGraph, example_inputs, own_modalities
from .onnx_model import OnnxOutput

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
WARM_UP = 3
PYTORCH = "pytorch"


@dataclass(frozen=True)
class ExportedFile:
    """
    One file that was written and gives what the model gives.

    Args:
        format (`str`): One of `FORMATS`.
        modality (`str`): What it is given: `"both"`, `"audio"` or `"visual"`.
        path (`Path`): The file.
        largest_difference (`float`): Of its logits from the model's, over batches of one and three random inputs.
    """

    format: str
    modality: str
    path: Path
    largest_difference: float

    def load(self, config: PreTrainedConfig) -> Runner:
        """A function of the inputs by name that returns logits."""
        return FORMATS[self.format].load(self.path, config, self.modality)


@dataclass(frozen=True)
class Measurement:
    """
    A row of the table.

    Args:
        model (`str`): Whose row it is.
        format (`str`): `"pytorch"` or one of `FORMATS`.
        modality (`str`): What it is given.
        bytes (`int`): Of the file; of PyTorch, of the weights.
        milliseconds (`float`): Median of a pass of one clip on the CPU.
        processor_milliseconds (`float`): Median of the time that the processor spent on it, over all threads: what
            else the machine does hardly changes it.
        peak_megabytes (`float`, *optional*): Memory that loading it and one pass take, where the system tells.
        largest_difference (`float`, *optional*): See [`ExportedFile`].
        score (`float`, *optional*): Accuracy, or MJ, on a data set.
    """

    model: str
    format: str
    modality: str
    bytes: int
    milliseconds: float
    processor_milliseconds: float
    peak_megabytes: float | None = None
    largest_difference: float | None = None
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class RunnerModel:
    """What was exported with as much of a model's interface as evaluation needs."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, config: PreTrainedConfig, runner: Runner) -> None:
        self.config, self.runner = config, runner

    def __call__(self, **inputs: Tensor) -> OnnxOutput:
        values = {name: value.cpu().float() for name, value in inputs.items() if value is not None}
        return OnnxOutput(logits=self.runner(**values))

    def to(self, *args: Any, **options: Any) -> Self:
        return self

    def eval(self) -> Self:
        return self


def export_model(
    model: PreTrainedModel, folder: Path, formats: Sequence[str], modalities: Sequence[str] = ("both",)
) -> list[ExportedFile]:
    """
    Writes a model in each format and for each modality, and checks each file.

    Args:
        model ([`PreTrainedModel`]): Keeps the output contract, float32 on the CPU.
        folder (`Path`): Where to; made if absent.
        formats (sequence of `str`): Of `FORMATS`.
        modalities (sequence of `str`, *optional*, defaults to `("both",)`): Of those that the model can be asked.

    Raises:
        ExportError: a format cannot be written, or an exact one differs from the model by more than 1e-4.
        ValueError: a format or a modality is unknown.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"format must be among {', '.join(FORMATS)}, got {', '.join(unknown)}.")
    folder.mkdir(parents=True, exist_ok=True)
    model = model.eval().float()
    return [_export_one(model, folder, name, modality) for modality in modalities for name in formats]


def measure(models: Mapping[str, str], files: Sequence[ExportedFile], repetitions: int = 20) -> list[Measurement]:
    """
    Size, latency and memory of one clip, of models in PyTorch and of the files. Passes take turns, so that what else
    the machine does meets all alike.

    Args:
        models (mapping of `str` to `str`): Directories by name; the first is the model that was exported, others stand
            beside it for comparison.
        files (sequence of [`ExportedFile`]): Of the first model.
        repetitions (`int`, *optional*, defaults to 20): Timed passes of each.
    """
    exported = next(iter(models))
    modalities = list(dict.fromkeys(file.modality for file in files))
    rows = [
        (name, PYTORCH, modality, folder, None)
        for name, folder in models.items()
        for modality in modalities
        if modality in own_modalities(AutoConfig.from_pretrained(folder))
    ]
    rows += [(exported, file.format, file.modality, models[exported], file) for file in files]
    latencies = _latencies([_loaded(folder, modality, file) for _, _, modality, folder, file in rows], repetitions)
    return [
        Measurement(
            name,
            kind,
            modality,
            _size(folder) if file is None else file.path.stat().st_size,
            *milliseconds,
            _peak_megabytes(folder, modality, file),
            None if file is None else file.largest_difference,
        )
        for (name, kind, modality, folder, file), milliseconds in zip(rows, latencies, strict=True)
    ]


def comparison_table(rows: Sequence[Measurement], metric: str | None = None) -> str:
    """Markdown; with the name of a metric a column of it, in %."""
    columns = ["model", "format", "input", "MB", "ms", "CPU ms", "peak MB", "largest difference"]
    lines = [columns + ([metric] if metric else [])]
    lines += [["---", "---", "---", *["---:"] * (len(lines[0]) - 3)]]
    for row in rows:
        peak = "" if row.peak_megabytes is None else f"{row.peak_megabytes:,.0f}"
        difference = "" if row.largest_difference is None else f"{row.largest_difference:.1e}"
        score = "" if row.score is None else f"{100 * row.score:.1f}"
        times = [f"{time:,.1f}" for time in (row.milliseconds, row.processor_milliseconds)]
        cells = [row.model, row.format, row.modality, f"{row.bytes / MEGABYTE:,.2f}", *times]
        lines.append([*cells, peak, difference, *([score] if metric else [])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _export_one(model: PreTrainedModel, folder: Path, name: str, modality: str) -> ExportedFile:
    kind = FORMATS[name]
    path = folder / kind.file_name(modality)
    kind.write(model, modality, path)
    try:
        difference = _largest_difference(model, kind.load(path, model.config, modality), modality)
    except RuntimeError as error:
        path.unlink()
        reason = str(error).partition("\n")[0]
        raise ExportError(f"{path.name} was written but cannot be run ({reason}); the file was removed.") from error
    if kind.exact and not difference <= TOLERANCE:
        path.unlink()
        raise ExportError(
            f"the logits of {path.name} differ from the model's by {difference:.1e}, more than {TOLERANCE:.0e}; the "
            "file was removed."
        )
    return ExportedFile(name, modality, path, difference)


@torch.inference_mode()
def _largest_difference(model: PreTrainedModel, runner: Runner, modality: str) -> float:
    differences = []
    for seed, batch in enumerate(CHECKED_BATCHES):
        inputs = example_inputs(model.config, modality, batch, seed)
        differences.append((runner(**inputs) - model(**inputs).logits).abs().max().item())
    return max(differences)


def _loaded(folder: str, modality: str, file: ExportedFile | None) -> Callable[[], Any]:
    """A pass of one clip."""
    config = AutoConfig.from_pretrained(folder)
    inputs = example_inputs(config, modality, batch=1)
    if file is not None:
        runner = file.load(config)
        return lambda: runner(**inputs)
    graph = LogitsGraph(AutoModel.from_pretrained(folder, dtype=torch.float32), modality).eval()
    return lambda: graph(*inputs.values())


@torch.inference_mode()
def _latencies(passes: Sequence[Callable[[], Any]], repetitions: int) -> list[tuple[float, float]]:
    """Median milliseconds of each, on the clock and of the processor."""
    milliseconds: list[list[tuple[float, float]]] = [[] for _ in passes]
    for _ in range(WARM_UP + repetitions):
        for run, times in zip(passes, milliseconds, strict=True):
            start = time.perf_counter(), time.process_time()
            run()
            end = time.perf_counter(), time.process_time()
            times.append((1000 * (end[0] - start[0]), 1000 * (end[1] - start[1])))
    return [tuple(map(median, zip(*times[WARM_UP:], strict=True))) for times in milliseconds]


def _peak_megabytes(*row: Any) -> float | None:
    """Of loading and running a row in a new process; `None` where the system does not tell."""
    if not RESET.exists():
        return None
    # a fork of this process would wait in vain for its OpenMP threads
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_of_this_process, torch.get_num_threads(), *row).result()


@torch.inference_mode()
def _peak_of_this_process(threads: int, *row: Any) -> float:
    torch.set_num_threads(threads)
    return peak_growth(lambda: _loaded(*row)())


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
