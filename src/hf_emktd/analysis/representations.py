"""What a model makes of the clips of a split: one vector a branch and clip."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel

from ..distillation.kernels import at_least_float32
from ..distillation.teacher import branch_tokens, check_contract
from .clip_batches import clip_batches, device_at_hand


@torch.inference_mode()
def pooled_tokens(
    model: PreTrainedModel, views: datasets.Dataset, batch_size: int = 64, role: str = "model"
) -> dict[str, np.ndarray]:
    """
    By branch the mean token of every clip, float32 `(clips, width)`. The model is given what its config's
    `input_shapes` names and the clips have, moved to the device at hand and left in eval mode; a branch without
    tokens is left out.

    Args:
        role: of the model, for progress and errors.

    Raises:
        ValueError: if the model's config lacks a field of the contract.
    """
    check_contract(model.config, role)
    device = device_at_hand()
    model.to(device).eval()
    columns: dict[str, list[np.ndarray]] = {}
    for batch in clip_batches(views, batch_size, device, f"Tokens of the {role}"):
        inputs = {name: batch[name] for name in model.config.input_shapes if name in batch}
        for branch, tokens in branch_tokens(model(**inputs, output_tokens=True)).items():
            columns.setdefault(branch, []).append(at_least_float32(tokens).mean(dim=1).cpu().numpy())
    return {branch: np.concatenate(parts) for branch, parts in columns.items()}
