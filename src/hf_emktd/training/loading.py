"""Models and monitors from a directory or the Hub."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, find_adapter_config_file

from .. import models  # noqa: F401  registers the Auto classes
from ..distillation.entropy_monitor import TASKS, EntropyMonitor
from .adapted_models import load_merged, merged_dtype, no_load_report
from .hub_models import OF_ONE_REPOSITORY, WHERE, NoSuchModelError, check_download, has_file, where_from

MONITOR_FOLDER = "entropy_monitor"
# What the libraries below raise for files that are damaged, or were edited.
LOAD_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)
LOAD_ERRORS += (SafetensorError, StopIteration, StrictDataclassError)
# Weights are safetensors, and no code that comes with them is run.
SAFELY = {"use_safetensors": True, "trust_remote_code": False}


def load_model(name_or_path: str, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A model with its head, and its processor. An adapter is loaded with the model it was trained on and merged into it.

    Args:
        name_or_path: a directory or Hub id, of a whole model or of an adapter saved by a run with `lora_rank`.
        options: those of [`~transformers.PreTrainedModel.from_pretrained`] for the model; those that say where its
            files are, such as `revision`, hold for the processor too. Of an adapter the others hold for the model it
            was trained on, which is looked for with the same `token` and `cache_dir`.

    Raises:
        ValueError: if there is neither a directory nor a Hub model of that name, it has no processor, its weights are
            no safetensors, do not fit its config or are not finite, or it needs code of its own.
    """
    with _named(name_or_path):
        given = {name: value for name in WHERE if (value := options.pop(name, None)) is not None}
        where = where_from(name_or_path, **given)
        load = _load_adapted if find_adapter_config_file(name_or_path, **where) else _load_whole
        model = load(name_or_path, where, **options)
        return model, AutoProcessor.from_pretrained(name_or_path, trust_remote_code=False, **where)


def load_config(name_or_path: str) -> PreTrainedConfig:
    """
    The config of what [`load_model`] loads; an adapter's is of the model with the adapter.

    Raises:
        ValueError: if there is neither a directory nor a Hub model of that name, or its config is of no model here.
    """
    with _named(name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, **where_from(name_or_path))
        if getattr(config, "task", None) not in TASKS:
            raise ValueError(f"a model of type {config.model_type!r} is no model for {' or '.join(TASKS)}")
        return config


@contextmanager
def _named(name_or_path: str) -> Iterator[None]:
    """Errors of loading, with the model's name and what was expected."""
    try:
        yield
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{name_or_path!r} is no model this library can load: expected a directory with config.json, "
            f"model.safetensors and the processor's files, or the id of such a model on the Hub. ({_one_line(error)})"
        ) from error


def _load_whole(name_or_path: str, where: dict[str, Any], **options: Any) -> PreTrainedModel:
    _check_index(Path(name_or_path, where.get("subfolder", ""), SAFE_WEIGHTS_INDEX_NAME))
    try:
        model = _load_checked(AutoModel, name_or_path, **where, **options)
    finally:
        check_download(name_or_path, **where)
    if getattr(model.config, "task", None) not in TASKS:
        raise ValueError(f"a {type(model).__name__} is no model for {' or '.join(TASKS)}")
    return model


def _load_checked(
    kind: type, name_or_path: str | Path, ignore_mismatched_sizes: bool = False, **options: Any
) -> PreTrainedModel:
    """`kind.from_pretrained`, without tensors that transformers would make up."""
    with no_load_report():
        model, loading = kind.from_pretrained(
            name_or_path, ignore_mismatched_sizes=True, output_loading_info=True, **SAFELY, **options
        )
    if not ignore_mismatched_sizes:
        _check_complete(loading)
    check_finite(model)
    return model


def _check_complete(loading: dict[str, Any]) -> None:
    mismatched = [f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in loading["mismatched_keys"]]
    missing = sorted(loading["missing_keys"] - {name for name, *_ in loading["mismatched_keys"]})
    for fault, names in (("are of another shape than its config says", mismatched), ("are missing", missing)):
        if names:
            raise ValueError(f"{len(names)} tensors {fault}: {', '.join(sorted(names)[:3])}")


def _check_index(path: Path) -> None:
    """Raises `ValueError` if the index of a directory's weights names files elsewhere."""
    names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values() if path.is_file() else ()
    outside = sorted({name for name in names if Path(name).name != name})
    if outside:
        raise ValueError(f"{path.name} names files outside of the directory: {', '.join(outside[:3])}")


def check_finite(model: PreTrainedModel) -> None:
    """Raises `ValueError` naming tensors with NaN or infinity, of which no answer could be taken."""
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{len(broken)} of its tensors hold NaN or infinity: {', '.join(broken[:3])}")


def _one_line(error: Exception) -> str:
    """The beginning: errors of the libraries below go on with listings and advice for their own callers."""
    return textwrap.shorten(str(error), 400, placeholder=" ...") or type(error).__name__


def _load_adapted(
    name_or_path: str,
    where: dict[str, Any],
    config: PreTrainedConfig | None = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    ignore_mismatched_sizes: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Base and adapter in one; the base is checked as any model is."""
    of_base = {name: value for name, value in where.items() if name not in OF_ONE_REPOSITORY}
    dtype = merged_dtype(dtype, torch_dtype)
    model = load_merged(name_or_path, partial(_load_base, **of_base, **options), **where).to(dtype)
    check_finite(model)
    if config is not None:
        options |= {"dtype": dtype or torch.float32, "ignore_mismatched_sizes": ignore_mismatched_sizes}
        model = type(model).from_pretrained(None, config=config, state_dict=model.state_dict(), **options)
        model.config.name_or_path = model.name_or_path = str(name_or_path)
    return model


def _load_base(name_or_path: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    options |= {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    try:
        return load_model(name_or_path, config=config, **options)[0]
    except ValueError as error:
        raise ValueError(f"it is an adapter of {name_or_path!r}, which cannot be loaded: {error}") from error


def load_monitor(name_or_path: str | Path) -> EntropyMonitor:
    """
    The entropy monitor in `entropy_monitor/` of a directory or Hub model.

    Raises:
        ValueError: if there is none.
    """
    monitor = find_monitor(name_or_path)
    if monitor is None:
        raise ValueError(
            f"{name_or_path} is no monitor and has none in {MONITOR_FOLDER}/; make one with scripts/train_monitor.py."
        )
    return monitor


def find_monitor(*names_or_paths: str | Path) -> EntropyMonitor | None:
    """
    The first entropy monitor kept in one of these directories or Hub models, or that one of the directories is; `None`
    where there is none. A `Path` is a directory, also one that is not there yet.

    Raises:
        ValueError: if there is one that cannot be loaded, or the Hub does not say whether there is one.
    """
    for name_or_path in names_or_paths:
        for folder in (Path(name_or_path, MONITOR_FOLDER), Path(name_or_path)):
            if _is_monitor(folder):
                return _read_monitor(folder)
        if isinstance(name_or_path, str) and not Path(name_or_path).exists():
            try:
                where = where_from(name_or_path)
            except NoSuchModelError:
                continue
            if has_file(name_or_path, f"{MONITOR_FOLDER}/config.json", **where):
                return _read_monitor(name_or_path, subfolder=MONITOR_FOLDER, **where)
    return None


def _is_monitor(folder: Path) -> bool:
    """By its name, whatever it holds, or by what its config says."""
    config = folder / "config.json"
    if folder.name == MONITOR_FOLDER or not config.is_file():
        return config.is_file()
    try:
        return json.loads(config.read_bytes())["model_type"] == EntropyMonitor.config_class.model_type
    except (ValueError, TypeError, KeyError):
        return False


def _read_monitor(name_or_path: str | Path, **options: Any) -> EntropyMonitor:
    try:
        return _load_checked(EntropyMonitor, name_or_path, **options)
    except LOAD_ERRORS as error:
        way_out = "Try again, or train it" if options else "Train it again"
        raise ValueError(
            f"the entropy monitor in {name_or_path} cannot be loaded: {_one_line(error)}. {way_out} with "
            "scripts/train_monitor.py."
        ) from error
