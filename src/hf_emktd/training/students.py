"""Which student a teacher gets: a preset, a directory, single fields, or by default a quarter of its width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..models.cav_mae.configuration_cav_mae import PRESETS, CavMaeConfig

WIDTH_FIELDS = ("hidden_size", "num_attention_heads")


def build_student_config(
    teacher: CavMaeConfig, student: str | None = None, overrides: list[str] | None = None
) -> PreTrainedConfig:
    """
    Config of a student for `teacher`.

    Args:
        teacher: the teacher's config; input sizes, classes and depths come from it unless overridden.
        student: a preset (`tiny`, `small`, `base`), or a directory or Hub id with a config. By default a quarter of
            the teacher's width and heads: 768 gives the paper's 192-wide student.
        overrides: `field=value` strings, values in JSON, such as `modality_specific_depth=2`.

    Raises:
        ValueError: for an unknown preset or field, or a student with other classes than the teacher.
    """
    if student is None:
        config = derive_config(teacher, {name: max(1, getattr(teacher, name) // 4) for name in WIDTH_FIELDS})
    elif student in PRESETS:
        config = derive_config(teacher, PRESETS[student])
    elif Path(student).exists() or student.count("/") == 1:
        config = AutoConfig.from_pretrained(student)
    else:
        raise ValueError(f"student must be one of {', '.join(PRESETS)} or a directory or Hub id, got {student!r}.")
    return derive_config(config, parse_overrides(overrides or [], config))


def parse_overrides(overrides: list[str], config: PreTrainedConfig) -> dict[str, Any]:
    """`["hidden_size=96"]` as `{"hidden_size": 96}`; the fields must be fields of `config`."""
    fields = {}
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator or not hasattr(config, name):
            known = ", ".join(sorted(name for name in config.to_diff_dict() if not name.startswith("_")))
            raise ValueError(
                f"expected FIELD=VALUE with a field of {type(config).__name__} ({known}), got {override!r}."
            )
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def derive_config(config: PreTrainedConfig, fields: dict[str, Any]) -> PreTrainedConfig:
    """A new config of the same class, so that its own checks run on the changed fields."""
    return type(config).from_dict({**config.to_dict(), **fields})
