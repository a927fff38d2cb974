"""Which student a teacher gets: a preset, a directory, single fields, or by default a quarter of its width."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ..distillation.teacher import check_compatible
from ..models.cav_mae import CavMaeConfig, CavMaeProcessor
from ..models.cav_mae.configuration_cav_mae import PRESETS
from .loading import load_model


def build_student_config(
    teacher: CavMaeConfig, student: str | None = None, overrides: list[str] | None = None
) -> PreTrainedConfig:
    """
    Config of a student for `teacher`.

    Args:
        teacher: the teacher's config; input sizes, classes and depths come from it unless overridden.
        student: a preset (`tiny`, `small`, `base`), or a directory or Hub id of a model. By default a quarter of the
            teacher's width and heads: 768 gives the paper's 192-wide student.
        overrides: `field=value` strings, values in JSON, such as `modality_specific_depth=2`.

    Raises:
        ValueError: for an unknown preset or field, or a student whose classes, inputs or tokens do not fit the
            teacher's.
    """
    if student is None:
        config = derive_config(teacher, _quarter_width(teacher) | {"_name_or_path": ""})
    elif student in PRESETS:
        config = derive_config(teacher, PRESETS[student] | {"_name_or_path": ""})
    elif is_model_name(student):
        config = AutoConfig.from_pretrained(student)
    else:
        raise ValueError(f"student must be one of {', '.join(PRESETS)} or a directory or Hub id, got {student!r}.")
    config = derive_config(config, parse_overrides(overrides or [], config))
    check_compatible(config, teacher)
    _check_inputs(config, teacher)
    return config


def build_student(
    config: PreTrainedConfig, teacher_processor: CavMaeProcessor, student: str | None = None
) -> tuple[PreTrainedModel, CavMaeProcessor]:
    """
    A student with `config`, and its processor: from scratch with the teacher's normalisation, as in the paper, unless
    `student` names a model to start from, which keeps its weights and its own normalisation. Float32 in either case:
    a teacher kept in 16 bits says nothing of how a student can be trained.
    """
    if student is None or student in PRESETS:
        return AutoModel.from_config(config, dtype=torch.float32), student_processor(teacher_processor, config)
    model, processor = load_model(student, config=config, dtype=torch.float32)
    return model, student_processor(processor, config)


def student_processor(processor: CavMaeProcessor, config: CavMaeConfig) -> CavMaeProcessor:
    """A processor for the input sizes of `config` that normalises, samples and pads as `processor` does."""
    extractor, image_processor = processor.feature_extractor, processor.image_processor
    audio_sizes = {"num_mel_bins": config.num_mel_bins, "audio_length": config.audio_length}
    return type(processor)(
        type(extractor).from_dict(extractor.to_dict() | audio_sizes),
        type(image_processor).from_dict(image_processor.to_dict() | {"image_size": config.image_size}),
    )


def parse_overrides(overrides: list[str], config: PreTrainedConfig) -> dict[str, Any]:
    """
    `["hidden_size=96"]` as `{"hidden_size": 96}`.

    Raises:
        ValueError: unless each is `FIELD=VALUE` with a field of `config`.
    """
    known = [name for name in sorted(config.to_dict()) if not name.startswith("_")]
    fields = {}
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator or name not in known:
            raise ValueError(
                f"expected FIELD=VALUE with a field of {type(config).__name__} ({', '.join(known)}), got {override!r}."
            )
        fields[name] = _json_or_text(value)
    return fields


def derive_config(config: PreTrainedConfig, fields: dict[str, Any]) -> PreTrainedConfig:
    """
    A new config of the same class, so that its own checks run on the changed fields.

    Raises:
        ValueError: if a field has another type or the fields do not fit together.
    """
    try:
        return type(config).from_dict({**config.to_dict(), **fields})
    except StrictDataclassError as error:  # no ValueError itself, and its text names the validator first
        raise ValueError(f"{type(config).__name__}: {error.__cause__ or error}") from error


def is_model_name(name: str) -> bool:
    """Whether `name` is an existing directory or has the form `owner/name` of a Hub id."""
    return Path(name).is_dir() or name.count("/") == 1


def _quarter_width(teacher: CavMaeConfig) -> dict[str, int]:
    heads = max(1, teacher.num_attention_heads // 4)
    step = math.lcm(4, heads)  # what CavMaeConfig asks of a width
    return {"hidden_size": max(step, teacher.hidden_size // 4 // step * step), "num_attention_heads": heads}


def _check_inputs(student: CavMaeConfig, teacher: CavMaeConfig) -> None:
    """The features of a run are stored for the teacher; a student's inputs are cut and shrunk from them."""
    if student.num_mel_bins != teacher.num_mel_bins:
        raise ValueError(
            f"the student hears {student.num_mel_bins} mel bins, the teacher {teacher.num_mel_bins}; one spectrogram "
            f"serves both, so give the student num_mel_bins={teacher.num_mel_bins}."
        )
    for name in ("audio_length", "image_size"):
        if getattr(student, name) > getattr(teacher, name):
            raise ValueError(
                f"the student's {name} is {getattr(student, name)}, the teacher's {getattr(teacher, name)}: both are "
                "made from features of the teacher's size, so the student's may be at most as large."
            )


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
