"""Which student a teacher gets: a preset, a directory, single fields, or by default a smaller one of its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..distillation.teacher import check_compatible
from .families import families_for, family_of
from .loading import load_model


def build_student_config(
    teacher: PreTrainedConfig,
    student: str | None = None,
    overrides: list[str] | None = None,
    modalities: list[str] | None = None,
) -> PreTrainedConfig:
    """
    Config of a student for `teacher`.

    Args:
        teacher: the teacher's config; input sizes, classes and depths come from it unless overridden.
        student: a preset of a family that learns the teacher's task (`tiny`, `small`, `base` of CAV-MAE,
            `ast-vit-tiny` and so on of two encoders, `b0` to `b5` of AVSegFormer), or a directory or Hub id of a
            model, or a directory with a config alone, which gets the teacher's classes. By default the paper's
            proportions: a quarter of CAV-MAE's width and heads (768 gives 192), PVTv2-b0 for AVSegFormer's PVTv2-b5.
        overrides: `field=value` strings, values in JSON, such as `modality_specific_depth=2`, or
            `vision_config.num_hidden_layers=4` where the config holds another.
        modalities: `audio`, `visual` or both: what the student takes. By default what its preset's teacher or its
            directory's model does.

    Raises:
        ValueError: for an unknown preset or field, a student whose classes, inputs or tokens do not fit the teacher's,
            or a modality that its task cannot do without.
    """
    if student is None:
        config = derive_config(teacher, family_of(teacher).smaller(teacher) | {"_name_or_path": ""})
    elif is_model_name(student):
        config = AutoConfig.from_pretrained(student)
        if not has_weights(student):
            config = derive_config(config, {"_name_or_path": "", "id2label": teacher.id2label})
    else:
        config = preset_config(student, teacher)
    config = derive_config(config, parse_overrides(overrides or [], config))
    if modalities is not None:
        config = derive_config(config, family_of(config).of_modalities(modalities))
    check_compatible(config, teacher)
    family_of(config).check_inputs(config, teacher)
    return config


def preset_config(name: str, teacher: PreTrainedConfig) -> PreTrainedConfig:
    """
    Config of a named size with the teacher's inputs and classes; of its own family where that has the name.

    Raises:
        ValueError: if no family that learns the teacher's task has it.
    """
    own = family_of(teacher)
    families = sorted(families_for(teacher.task), key=lambda family: family is not own)
    family = next((family for family in families if name in family.presets), None)
    if family is None:
        names = ", ".join(name for family in families for name in family.presets)
        raise ValueError(f"student must be one of {names} or a directory or Hub id, got {name!r}.")
    start = teacher if family is own else family.config_class()
    return derive_config(start, {**family.preset_for(name, teacher), "_name_or_path": ""})


def build_student(
    config: PreTrainedConfig, teacher_processor: ProcessorMixin, student: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A student with `config`, and its processor: from scratch with the teacher's normalisation, as in the paper, unless
    `student` has weights to start from, which it keeps with its own normalisation. Float32 in either case:
    a teacher kept in 16 bits says nothing of how a student can be trained.
    """
    if not has_weights(student):
        return AutoModel.from_config(config, dtype=torch.float32), student_processor(teacher_processor, config)
    model, processor = load_model(student, config=config, dtype=torch.float32)
    return model, student_processor(processor, config)


def student_processor(processor: ProcessorMixin, config: PreTrainedConfig) -> ProcessorMixin:
    """A processor for the input sizes of `config` that normalises, samples and pads as `processor` does."""
    return family_of(config).processor_for(processor, config)


def inherit(student: PreTrainedModel, teacher: PreTrainedModel, parts: list[str] | None = None) -> list[str]:
    """
    Copies whole parts of the teacher into the student.

    Args:
        student: changed in place.
        teacher: of the same family.
        parts: names of the config's `freezable_parts`. By default those that the family passes on, as far as they are
            of the same size in both: the VGGish of AVSegFormer, which the paper's student shares with its teacher.

    Returns:
        The parts that were copied.

    Raises:
        ValueError: if a part that was named is unknown or of another size.
    """
    copied = []
    for part in family_of(student.config).inherited_parts if parts is None else parts:
        own, given = part_of(student, part), part_of(teacher, part)
        sizes = [[tensor.shape for tensor in module.state_dict().values()] for module in (own, given)]
        if sizes[0] == sizes[1]:
            own.load_state_dict(given.state_dict())
            copied.append(part)
        elif parts is not None:
            raise ValueError(f"the student's {part} has other sizes than the teacher's; leave it out of --inherit.")
    return copied


def part_of(model: PreTrainedModel, part: str) -> torch.nn.Module:
    """
    The module that a config's `freezable_parts` calls `part`.

    Raises:
        ValueError: if the model has no such part.
    """
    check_parts(model.config, [part])
    return model.get_submodule(model.config.freezable_parts[part].removesuffix("."))


def check_parts(config: PreTrainedConfig, parts: list[str]) -> None:
    """Raises `ValueError` if a model of `config` has no part of one of these names."""
    known = getattr(config, "freezable_parts", {})
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ValueError(
            f"a model of {type(config).__name__} has no part {', '.join(unknown)} to take over or freeze; its parts: "
            f"{', '.join(known) or 'none'}."
        )


def check_body(start: PreTrainedModel, config: PreTrainedConfig) -> None:
    """
    Refuses a model of `config` that would not start from the weights of `start`: of another shape may only be its
    head, for other classes, and tables of positions, for inputs of other sizes.

    Raises:
        ValueError: naming tensors that differ.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in family_of(config).model_class(config).state_dict().items()}
    body = {
        name: tensor.shape
        for name, tensor in start.state_dict().items()
        if name.startswith(f"{start.base_model_prefix}.") and "position" not in name
    }
    pairs = [(name, shape, wanted.get(name, shape)) for name, shape in body.items()]
    other = [f"{name} {tuple(found)} for {tuple(asked)}" for name, found, asked in pairs if found != asked]
    if other:
        raise ValueError(
            f"{len(other)} of {len(body)} tensors of the model to start from are of another shape than these config "
            f"fields ask for and would be lost: {', '.join(other[:3])}. Leave these --config_fields out, or train "
            "from scratch, without --init."
        )


def parse_overrides(overrides: list[str], config: PreTrainedConfig) -> dict[str, Any]:
    """
    `["hidden_size=96"]` as `{"hidden_size": 96}`; `["vision_config.hidden_size=96"]` as that whole config, changed.

    Raises:
        ValueError: unless each is `FIELD=VALUE` with a field of `config`.
    """
    values = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    fields = {}
    for override in overrides:
        name, separator, value = override.partition("=")
        outer, _, inner = name.partition(".")
        holder = fields.get(outer, values.get(outer)) if inner else values
        if not separator or not isinstance(holder, dict) or (inner or name) not in holder:
            raise ValueError(
                f"expected FIELD=VALUE with a field of {type(config).__name__} ({', '.join(sorted(values))}), got "
                f"{override!r}."
            )
        fields[outer] = {**holder, inner: json_or_text(value)} if inner else json_or_text(value)
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


def has_weights(student: str | None) -> bool:
    """
    Whether a student, named as for [`build_student_config`], has to start from weights: a Hub id or a directory. A
    preset, `None` and a directory with nothing but a config (and its code) start from scratch.
    """
    if student is None or not is_model_name(student):
        return False
    if not Path(student).is_dir():
        return True
    # any other file says that a model was meant, which must not be trained anew because its weights are lost
    return any(path.name != "config.json" and path.suffix != ".py" for path in Path(student).iterdir())


def is_model_name(name: str) -> bool:
    """Whether `name` is an existing directory or has the form `owner/name` of a Hub id."""
    return Path(name).is_dir() or name.count("/") == 1


def json_or_text(value: str) -> Any:
    """A value of the command line: JSON where it is, else the text itself."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
