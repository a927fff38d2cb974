"""What is known about a trained model: the facts its card is written from, kept as `distillation.json` beside it."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..metrics.complexity import count_macs, count_parameters
from ..whole_files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUMMARY_NAME = "distillation.json"
CLASSIFICATION, SEGMENTATION = "audio-visual-classification", "audio-visual-segmentation"
TASKS = (CLASSIFICATION, SEGMENTATION)
METRICS = ("accuracy", "mAP", "mAUC", "d_prime", "MJ", "MF")
# What a model is given to see whether it listens; it should do badly, so nothing of a teacher's is retained.
CONTROLS = ("swapped_sound", "silence")
MODALITIES = ("both", "audio", "visual", *CONTROLS)
INPUT_MODALITIES = {"input_values": "audio", "pixel_values": "visual"}
_PACKAGES = ("hf_emktd", "torch", "transformers", "datasets", "accelerate", "huggingface_hub")


@dataclass
class ModelFacts:
    """Name and size of a model.

    Args:
        name (`str`):
            Hub id, directory or preset the model is known by.
        parameters (`int`):
            Number of parameters.
        macs (`int`, *optional*):
            Multiply-accumulates for one clip with all that the model takes.
        architecture (`str`, *optional*):
            Class of the model.
        hub_id (`str`, *optional*):
            Its id on the Hub, if it is or will be there.
        visual_parameters (`int`, *optional*):
            Number of parameters of its picture encoder alone, by which work on AVSBench names its models.
        modality (`str`, *optional*):
            `"audio"` or `"visual"` of a model that takes nothing else.
    """

    name: str
    parameters: int
    macs: int | None = None
    architecture: str | None = None
    hub_id: str | None = None
    visual_parameters: int | None = None
    modality: str | None = None

    @classmethod
    def from_model(cls, model: PreTrainedModel, name: str, hub_id: str | None = None) -> ModelFacts:
        """Measures a model. `hub_id` defaults to `name` where that is a Hub id and no directory."""
        return cls(
            name,
            parameters=count_parameters(model),
            macs=count_macs(model),
            architecture=type(model).__name__,
            hub_id=hub_id or hub_id_of(name),
            visual_parameters=_visual_parameters(model),
            modality=_only_modality(model),
        )

    @property
    def title(self) -> str:
        """The Hub id, or the last part of the name: a card does not show where on a disk the model lay."""
        return self.hub_id or Path(self.name).name


@dataclass
class DataFacts:
    """The clips that were used.

    Args:
        name (`str`):
            Name of the data set.
        clips (`dict[str, int]`):
            Number of clips used in each split.
        left_out (`dict[str, dict[str, int]]`):
            For each split the number of clips of each kind of trouble (missing, corrupt, soundless, ...).
        manifest_hash (`str`, *optional*):
            Hash of the list of clips.
        classes (`int`, *optional*):
            Number of classes.
        hub_id (`str`, *optional*):
            Id of the data set on the Hub.
        benchmark_task (`str`, *optional*):
            Task of the Hub data set's `eval.yaml` that accuracy is reported to.
    """

    name: str
    clips: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    manifest_hash: str | None = None
    classes: int | None = None
    hub_id: str | None = None
    benchmark_task: str | None = None


@dataclass
class ObjectiveFacts:
    """One term of the distillation loss: its `to_dict()` and its `citation` (BibTeX)."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    citation: str | None = None

    @classmethod
    def from_objective(cls, objective: Any) -> ObjectiveFacts:
        """Reads an objective of `hf_emktd.distillation`."""
        return cls(type(objective).__name__, objective.to_dict(), objective.citation)


@dataclass
class EvaluationResult:
    """Metrics of the model, and of its teacher, on one split.

    Args:
        split (`str`):
            The split.
        metrics (`dict[str, float]`):
            The model's, as `event_classification_metrics` or `segmentation_metrics` names them.
        teacher_metrics (`dict[str, float]`, *optional*):
            The teacher's on the same clips in the same way.
        modality (`str`, *optional*, defaults to `"both"`):
            What the model was given: `"both"`, `"audio"` or `"visual"`; or, to see whether it listens, the picture
            with `"swapped_sound"`, that of another clip, or with `"silence"`.
        frames (`int`, *optional*, defaults to 1):
            Frames over which the softmax was averaged.
        scores (`str`, *optional*, defaults to `"logits"`):
            What average precision and AUC ranked the clips by, `"logits"` or `"softmax"`. Of masks the protocol of MF,
            `"avsbench"`, as which `"logits"` counts, or `"dataset"`.
    """

    split: str
    metrics: dict[str, float]
    teacher_metrics: dict[str, float] = field(default_factory=dict)
    modality: str = "both"
    frames: int = 1
    scores: str = "logits"

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {MODALITIES}, got {self.modality!r}.")
        self.metrics = _finite(self.metrics)
        self.teacher_metrics = _finite(self.teacher_metrics)

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What makes two results comparable: split, modality, frames, scores."""
        return self.split, self.modality, self.frames, self.scores

    @property
    def retention(self) -> dict[str, float]:
        """Model over teacher, for each metric that both have and that the teacher has above zero; not of controls."""
        teacher = {} if self.modality in CONTROLS else self.teacher_metrics
        return {
            name: self.metrics[name] / teacher[name]
            for name in METRICS
            if name in self.metrics and teacher.get(name, 0) > 0
        }


@dataclass
class DistillationSummary:
    """Everything a model card says. What is unknown stays empty and is left out of the card.

    Args:
        student (`ModelFacts`):
            The model the card is for.
        teacher (`ModelFacts`, *optional*):
            What it was distilled from, or is compared with where there are no objectives; without one the card is that
            of a teacher, trained on labels.
        data (`DataFacts`, *optional*):
            The clips.
        objectives (`list[ObjectiveFacts]`):
            The terms of the loss beside the task loss.
        entropy_statistics (`dict[str, dict[str, Any]]`):
            For each branch what the entropy monitor measured on clips it was not trained on.
        results (`list[EvaluationResult]`):
            One entry for each split, modality, number of frames and kind of scores.
        hyper_parameters (`dict[str, Any]`):
            Of the training.
        command (`str`, *optional*):
            The command that trained the model.
        training_seconds (`float`, *optional*):
            How long it took; of a resumed run all its parts.
        environment (`dict[str, str]`):
            Versions, by default of this process ([`environment_versions`]).
        limitations (`list[str]`):
            Sentences beside those every card has.
        license (`str`, *optional*, defaults to `"apache-2.0"`):
            Licence of the weights.
        task (`str`, *optional*, defaults to `"audio-visual-classification"`):
            What the model does, as its configuration names it; the other is `"audio-visual-segmentation"`.
        adapter_of (`str`, *optional*):
            Directory or Hub id of the model that what was saved is an adapter of.
    """

    student: ModelFacts
    teacher: ModelFacts | None = None
    data: DataFacts | None = None
    objectives: list[ObjectiveFacts] = field(default_factory=list)
    entropy_statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[EvaluationResult] = field(default_factory=list)
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    training_seconds: float | None = None
    environment: dict[str, str] = field(default_factory=lambda: environment_versions())
    limitations: list[str] = field(default_factory=list)
    license: str = "apache-2.0"
    task: str = CLASSIFICATION
    adapter_of: str | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {TASKS}, got {self.task!r}.")

    @property
    def distilled(self) -> bool:
        """Whether the teacher taught the model; one trained on labels alone may be compared with a teacher too."""
        return self.teacher is not None and bool(self.objectives)

    def update_results(self, *results: EvaluationResult) -> None:
        """Adds results, replacing those of the same key; the teacher's old numbers stay where new ones lack."""
        merged = {result.key: result for result in self.results}
        for result in results:
            old = merged.get(result.key)
            if old and not result.teacher_metrics:
                result.teacher_metrics = old.teacher_metrics
            merged[result.key] = result
        self.results = list(merged.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DistillationSummary:
        """The opposite of `to_dict`.

        Raises:
            ValueError: a field is unknown or a required one is absent.
        """
        try:
            return cls(
                **{
                    **values,
                    "student": ModelFacts(**values["student"]),
                    "teacher": _optional(ModelFacts, values.get("teacher")),
                    "data": _optional(DataFacts, values.get("data")),
                    "objectives": [ObjectiveFacts(**item) for item in values.get("objectives", [])],
                    "results": [EvaluationResult(**item) for item in values.get("results", [])],
                }
            )
        except (AttributeError, KeyError, TypeError) as error:
            known = ", ".join(item.name for item in fields(cls))
            raise ValueError(
                f"not a distillation summary ({error}); its fields are {known}. "
                "A file written by a newer hf_emktd needs that version."
            ) from error

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes `distillation.json` into `directory`, whole or not at all."""
        return write_whole(
            Path(directory) / SUMMARY_NAME, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        )

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> DistillationSummary:
        """Reads `distillation.json` of a model's directory.

        Raises:
            FileNotFoundError: the directory has none.
            ValueError: the file is not one of ours.
        """
        path = Path(directory) / SUMMARY_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: the directory was not saved by `hf_emktd.hub.save_for_hub`, so there is no "
                "card to update."
            )
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


def hub_id_of(name_or_path: str) -> str | None:
    """The Hub id a model was loaded by, or `None` if it came from a directory or from nowhere (a preset)."""
    if os.path.isdir(name_or_path) or name_or_path.count("/") != 1:
        return None
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return None
    return name_or_path


def environment_versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in _PACKAGES}}


def _visual_parameters(model: PreTrainedModel) -> int | None:
    """Parameters of the part that the configuration calls the picture encoder, where it names parts."""
    prefix = getattr(model.config, "freezable_parts", {}).get("visual_encoder")
    if prefix is None:
        return None
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name.startswith(prefix))


def _only_modality(model: PreTrainedModel) -> str | None:
    inputs = tuple(model.config.input_shapes)
    return INPUT_MODALITIES[inputs[0]] if len(inputs) == 1 else None


def _optional(facts: type, values: dict[str, Any] | None) -> Any:
    return None if values is None else facts(**values)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Without the undefined ones (NaN, or the infinite d-prime of an AUC of 1), which JSON and YAML cannot hold."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def plain(value: Any) -> Any:
    """Numpy and torch scalars as Python's, paths and other objects as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
