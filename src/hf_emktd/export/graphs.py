"""The part of a model that is exported: named inputs in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MODALITIES = {
    "both": ("input_values", "pixel_values"),
    "audio": ("input_values",),
    "visual": ("pixel_values",),
}
SEGMENTATION = "audio-visual-segmentation"


class LogitsGraph(nn.Module):
    """
    A model that is given one fixed set of inputs, in this order, and returns its logits alone.

    Args:
        model ([`PreTrainedModel`]): Keeps the output contract; in evaluation mode.
        modality (`str`): `"both"`, `"audio"` or `"visual"`.
    """

    def __init__(self, model: PreTrainedModel, modality: str) -> None:
        super().__init__()
        self.model = model
        self.names = input_names(model.config, modality)

    def forward(self, *values: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, values, strict=True))).logits


def own_modalities(config: PreTrainedConfig) -> list[str]:
    """What a model can be asked: of masks with both alone, since a model of masks needs both."""
    if config.task == SEGMENTATION:
        return ["both"]
    return [modality for modality, names in MODALITIES.items() if set(names) <= set(config.input_shapes)]


def input_names(config: PreTrainedConfig, modality: str) -> list[str]:
    """
    The inputs of a modality, sound first.

    Raises:
        ValueError: the model cannot be asked so.
    """
    known = own_modalities(config)
    if modality not in known:
        raise ValueError(f"modality {modality!r} cannot be exported of this model, only {', '.join(known)}.")
    return list(MODALITIES[modality])


def example_inputs(config: PreTrainedConfig, modality: str, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Normally distributed inputs `(batch, ...)`, float32, by name: what processors make has about this scale."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: config.input_shapes[name] for name in input_names(config, modality)}
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}


def dynamic_shapes(config: PreTrainedConfig, modality: str) -> tuple[tuple[dict[int, Dim], ...]]:
    """Which sizes stay free: the number of clips, and of a model of masks that of their frames."""
    free = {0: Dim("batch")}
    if config.task == SEGMENTATION:
        free[1] = Dim("frames")
    return (tuple(free for _ in input_names(config, modality)),)
