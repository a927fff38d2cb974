"""Models and monitors from a directory or the Hub."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from .. import models  # noqa: F401  registers the Auto classes
from ..distillation.entropy_monitor import EntropyMonitor

MONITOR_FOLDER = "entropy_monitor"


def load_model(name_or_path: str, **options) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A model with its head, and its processor.

    Raises:
        ValueError: if there is neither a directory nor a Hub model of that name, or it has no processor.
    """
    try:
        return AutoModel.from_pretrained(name_or_path, **options), AutoProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name_or_path!r} is no model this library can load: expected a directory with config.json, "
            f"model.safetensors and the processor's files, or the id of such a model on the Hub. ({error})"
        ) from error


def find_monitor(teacher_name_or_path: str, *directories: str | Path) -> EntropyMonitor | None:
    """The entropy monitor kept in a teacher's own folder or in one of `directories`; `None` where there is none."""
    for directory in (teacher_name_or_path, *directories):
        folder = Path(directory) / MONITOR_FOLDER
        if (folder / "config.json").is_file():
            return EntropyMonitor.from_pretrained(folder)
    return None
