"""An adapter and the model it was trained on, loaded as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .lora import merge_adapters, without_peft_warning


def load_merged(
    name_or_path: str,
    load_base: Callable[[str, PreTrainedConfig], PreTrainedModel],
    config: PreTrainedConfig | None = None,
    **where: Any,
) -> PreTrainedModel:
    """
    Base and adapter in one, in float32, and trainable as the base is.

    Args:
        name_or_path: directory or Hub id of the adapter.
        load_base: `load_base(name_or_path, config)` gives the model below, in float32; what does not fit `config` is
            replaced by the adapter.
        config: instead of the adapter's own, which has the classes it was trained for.
        where: options of `from_pretrained` that say where the adapter lies, such as `revision`.

    Raises:
        ValueError: if the adapter is of another kind than this library writes.
    """
    adapter = PeftConfig.from_pretrained(name_or_path, **where)
    if type(adapter) is not LoraConfig or adapter.megatron_config:
        raise ValueError(f"its adapter is a {adapter.peft_type} with other fields than this library writes")
    config = AutoConfig.from_pretrained(name_or_path, **where) if config is None else config
    base = load_base(adapter.base_model_name_or_path, config)
    device = base.device
    trained = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    with without_peft_warning():
        adapted = PeftModel.from_pretrained(base, name_or_path, **where)
    model = merge_adapters(adapted).to(device)
    for name, parameter in model.named_parameters():  # peft froze them
        parameter.requires_grad_(name in trained)
    model.config.name_or_path = model.name_or_path = str(name_or_path)
    return model


def from_adapter(
    kind: type[PreTrainedModel],
    name_or_path: str,
    where: dict[str, Any],
    config: PreTrainedConfig | None = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    output_loading_info: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """
    What `kind.from_pretrained` gives for an adapter: [`load_merged`].

    Args:
        kind: class of the model below.
        name_or_path, where, config: see [`load_merged`].
        dtype, torch_dtype: of the merged model, by default float32; two names of one option.
        options: those of `from_pretrained` for the model below.

    Raises:
        ValueError: for `output_loading_info`, which nothing could be told of.
    """
    if output_loading_info:
        raise ValueError(f"{name_or_path} is an adapter, merged into its base; leave output_loading_info out.")
    options |= {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    with no_load_report():
        model = load_merged(
            name_or_path,
            lambda base, wanted: kind.from_pretrained(base, config=wanted, **options),
            config,
            **where,
        )
    return model.to(merged_dtype(dtype, torch_dtype))


def merged_dtype(dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None = None) -> torch.dtype | None:
    """Of a merged model, from transformers' `dtype` and the older name of it: `None`, float32 stays, of `"auto"`."""
    wanted = torch_dtype if dtype is None else dtype
    return getattr(torch, wanted, None) if isinstance(wanted, str) else wanted


@contextmanager
def no_load_report() -> Iterator[None]:
    """Hides transformers' table of what does not fit: here it is an error, or, of another head, meant so."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
