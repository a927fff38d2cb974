"""Models and monitors from a directory or the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import find_adapter_config_file, logging

from .. import models  # noqa: F401  registers the Auto classes
from ..distillation.entropy_monitor import EntropyMonitor
from .lora import merge_adapters

MONITOR_FOLDER = "entropy_monitor"


def load_model(name_or_path: str, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A model with its head, and its processor. An adapter is loaded with the model it was trained on and merged into it.

    Args:
        name_or_path: a directory or Hub id, of a whole model or of an adapter saved by a run with `lora_rank`.
        options: those of [`~transformers.PreTrainedModel.from_pretrained`] for the model.

    Raises:
        ValueError: if there is neither a directory nor a Hub model of that name, or it has no processor.
    """
    try:
        load = _load_adapted if find_adapter_config_file(name_or_path) else AutoModel.from_pretrained
        return load(name_or_path, **options), AutoProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name_or_path!r} is no model this library can load: expected a directory with config.json, "
            f"model.safetensors and the processor's files, or the id of such a model on the Hub. ({error})"
        ) from error


def _load_adapted(name_or_path: str, config: PreTrainedConfig | None = None, **options: Any) -> PreTrainedModel:
    """Base and adapter in one; the adapter's folder has the config, with the classes it was trained for."""
    own = AutoConfig.from_pretrained(name_or_path)
    base_name = PeftConfig.from_pretrained(name_or_path).base_model_name_or_path
    try:
        with _no_load_report():
            base, _ = load_model(base_name, config=own, ignore_mismatched_sizes=True, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(f"it is an adapter of {base_name!r}, which cannot be loaded: {error}") from error
    model = merge_adapters(PeftModel.from_pretrained(base, name_or_path)).to(options.get("dtype"))
    if config is not None:
        model = type(model).from_pretrained(None, config=config, state_dict=model.state_dict(), **options)
    model.config.name_or_path = model.name_or_path = str(name_or_path)
    return model


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Hides that the base has another head: the adapter brings its own."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_monitor(name_or_path: str | Path) -> EntropyMonitor:
    """
    The entropy monitor in `entropy_monitor/` of a directory or Hub model.

    Raises:
        ValueError: if there is none.
    """
    monitor = find_monitor(name_or_path)
    if monitor is None:
        raise ValueError(
            f"{name_or_path} has no folder {MONITOR_FOLDER}/ with a monitor; make one with scripts/train_monitor.py."
        )
    return monitor


def find_monitor(*names_or_paths: str | Path) -> EntropyMonitor | None:
    """The first entropy monitor kept in one of these directories or Hub models; `None` where there is none."""
    for name_or_path in names_or_paths:
        if Path(name_or_path, MONITOR_FOLDER, "config.json").is_file():
            return EntropyMonitor.from_pretrained(Path(name_or_path, MONITOR_FOLDER))
        if not Path(name_or_path).exists() and str(name_or_path).count("/") == 1:
            try:
                return EntropyMonitor.from_pretrained(str(name_or_path), subfolder=MONITOR_FOLDER)
            except OSError:  # the repository has no such folder, or there is none of that name
                continue
    return None
