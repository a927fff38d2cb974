"""What of a run's models and clips can still be loaded."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import torch
from transformers import PreTrainedModel, ProcessorMixin

from ..analysis.clip_batches import clip_views, device_at_hand
from ..distillation.teacher import LiveTeacher, check_compatible
from ..metrics import measure_latency_ms
from ..training.clip_data import ClipData, DataArguments, open_clips
from ..training.loading import find_monitor, load_model
from .run_record import CONFIG_NAME, RunRecord


@dataclass(frozen=True)
class LoadedModel:
    """A model and what prepares its inputs."""

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin


@dataclass(frozen=True)
class Clips:
    """
    Clips that models are compared on: at most `most` of a split, the same for the same `seed`.

    Args:
        data: with the split's features.
        split: its name.
    """

    data: ClipData
    split: str
    most: int
    seed: int
    batch_size: int

    def views(self, processor: ProcessorMixin) -> datasets.Dataset:
        """As evaluation takes them, for one model."""
        return clip_views(self.data, self.split, self.most, processor, self.seed)


def load_student(record: RunRecord) -> LoadedModel:
    """
    The run's model.

    Raises:
        ValueError: if it is not there or cannot be loaded.
    """
    if not (record.folder / CONFIG_NAME).is_file():
        raise ValueError(f"{CONFIG_NAME} is not there: the model is saved when a run has ended.")
    return LoadedModel(record.title, *load_model(str(record.folder)))


def load_teacher(record: RunRecord, named: str | None) -> LoadedModel:
    """
    The run's teacher, or the one that is `named`.

    Raises:
        ValueError: if the run has none, or it cannot be loaded.
    """
    name = named or record.find_teacher()
    return LoadedModel(name, *load_model(name))


def with_monitor(loaded: LoadedModel, *places: str) -> LiveTeacher:
    """
    A model whose entropies can be read, with the first monitor that is in one of the `places`.

    Raises:
        ValueError: if there is none, or it is another model's.
    """
    monitor = find_monitor(*places)
    if monitor is None:
        raise ValueError("there is no entropy monitor beside the teacher or the run; --monitor names one.")
    return LiveTeacher(loaded.model, monitor)


def open_split(
    student: LoadedModel, args: DataArguments, split: str, processor: ProcessorMixin, most: int, seed: int, batch: int
) -> Clips:
    """
    The clips that `args` or the model's config names, in the sizes of `processor`.

    Raises:
        ValueError: if neither names a data set, it is not there any more, or has other classes.
    """
    if args.dataset is None and not getattr(student.model.config, "training_data", None):
        raise ValueError("the model's config does not say which clips it was trained on; --dataset names some.")
    args.fill_from(student.model.config)
    data = open_clips(args, processor, model_config=student.model.config, only_split=split)
    split = data.evaluation_split(split)
    data.split(split)  # refuses a split without a usable clip
    return Clips(data, split, most, seed, batch)


def as_teacher(teacher: LoadedModel, student: LoadedModel) -> LiveTeacher:
    """
    The teacher for a comparison with its student.

    Raises:
        ValueError: if the two cannot be compared token by token.
    """
    check_compatible(student.model.config, teacher.model.config)
    return LiveTeacher(teacher.model)


@dataclass(frozen=True)
class Cost:
    """Bytes of a model's weights as loaded, and milliseconds of one clip on this machine."""

    weight_bytes: int
    latency_ms: float


def measure_cost(loaded: LoadedModel) -> Cost:
    """On the device at hand, with as many threads as torch has."""
    model = loaded.model.to(device_at_hand())
    return Cost(sum(parameter.nbytes for parameter in model.parameters()), measure_latency_ms(model))


def machine() -> str:
    """What latencies were measured on, in words."""
    device = device_at_hand()
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
