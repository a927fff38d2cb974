"""`from_pretrained` for folders and repositories that hold an adapter alone."""

from __future__ import annotations

import os
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file

WHERE = ("revision", "token", "cache_dir", "local_files_only")


def take_adapters(model: type[PreTrainedModel]) -> None:
    """
    Makes `model.from_pretrained`, which `AutoModel` and pipelines call, load an adapter with its base, merged.
    Transformers would look for the base's weights in the adapter's folder, since that has a config. The code of models
    travels to the Hub and stays free of this; peft is imported with the first adapter.
    """
    plain = model.from_pretrained.__func__

    @wraps(plain)
    def from_pretrained(
        cls: type[PreTrainedModel],
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        adapter_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> PreTrainedModel:
        name = pretrained_model_name_or_path
        if adapter_kwargs is None:
            where = {key: options[key] for key in WHERE if options.get(key) is not None}
            adapter = name if name is not None and find_adapter_config_file(name, **where) else None
        else:  # AutoModel has looked, and names the base of an adapter on the Hub, and gives the base's config
            where = {key: value for key, value in adapter_kwargs.items() if key in WHERE and value is not None}
            adapter = adapter_kwargs.get("_adapter_model_path")
        if adapter is None or any(Path(adapter).glob("model*.safetensors")):
            return plain(cls, name, *args, adapter_kwargs=adapter_kwargs, **options)
        options.pop("config" if adapter != name else "revision", None)
        load = import_module("hf_emktd.training.adapted_models").from_adapter
        return load(cls, str(adapter), where, **options)

    model.from_pretrained = classmethod(from_pretrained)
