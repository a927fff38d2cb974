"""The numbers that a frozen teacher computes with."""

from __future__ import annotations

import warnings

import torch
from torch import nn

# by the name that --teacher_dtype takes
TEACHER_DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.qint8,
}


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """
    `model` with its weights in `dtype`: cast in place, or for `torch.qint8` a copy.

    In int8 the linear layers alone, with one scale a tensor; activations are quantised as they come and the layers
    return float32, so everything around them stays as it is. It runs on the CPU only.

    Raises:
        ValueError: for int8 on an accelerator.
    """
    if dtype != torch.qint8:
        return model.to(dtype)
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"an int8 teacher runs on the CPU, this one is on {device}. Use bfloat16 or float16 there.")
    with warnings.catch_warnings():
        # Deprecated in favour of torchao, a further package; every torch that setup.cfg allows has it.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def is_int8(model: nn.Module) -> bool:
    """Whether [`in_dtype`] has quantised it."""
    return any(isinstance(module, torch.ao.nn.quantized.dynamic.Linear) for module in model.modules())
