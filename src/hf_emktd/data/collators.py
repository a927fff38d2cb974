"""Puts the views of several clips into one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["AudioVisualCollator", "NamingCollator"]

MODEL_INPUTS = ("input_values", "pixel_values", "teacher_input_values", "teacher_pixel_values")


class AudioVisualCollator:
    """
    Stacks views made by [`~data.augmentation.ClipTransform`] or [`~data.scene_augmentation.SceneTransform`] into a
    batch of tensors.

    Returns, on call with a list of such dicts:
        `input_values` and `pixel_values`, float32, `teacher_input_values` and `teacher_pixel_values` where the views
        have them, and `labels`. A modality that all clips lack has no key.

        | | of clips | of scenes |
        | --- | --- | --- |
        | `input_values` | `(batch, time, mel)` | `(batch, frames, 96, 64)` |
        | `pixel_values` | `(batch, 3, height, width)` | `(batch, frames, 3, height, width)` |
        | `labels` | int64 `(batch,)` | int64 `(batch, frames, height, width)` |

        After mixup `labels` are float32 `(batch, classes)`.

    Raises:
        ValueError: if only some clips of the batch lack a modality.
    """

    def __call__(self, views: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {}
        for name in MODEL_INPUTS:
            values = [view.get(name) for view in views]
            missing = [index for index, value in enumerate(values) if value is None]
            if len(missing) == len(values):
                continue
            if missing:
                raise ValueError(_missing_message(name, views, missing))
            batch[name] = torch.from_numpy(np.stack(values))
        labels = "labels" if "labels" in views[0] else "label"
        if labels in views[0]:
            batch["labels"] = _labels([view[labels] for view in views])
        return batch


class NamingCollator:
    """
    What another collator makes of views, and their `clip_ids`, a list of names for messages, where views have them.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, views: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(views)
        return batch | {"clip_ids": [view["clip_id"] for view in views]} if "clip_id" in views[0] else batch


def _labels(labels: list[int | np.ndarray]) -> torch.Tensor:
    if isinstance(labels[0], np.ndarray):
        return torch.from_numpy(np.stack(labels))
    return torch.tensor(labels, dtype=torch.int64)


def _missing_message(name: str, views: list[dict[str, Any]], missing: list[int]) -> str:
    clip_ids = ", ".join(repr(views[index].get("clip_id", index)) for index in missing)
    return (
        f"{len(missing)} of {len(views)} clips in a batch have no {name}: {clip_ids}. A batch needs the same "
        "modalities for all its clips: leave these out, or put them into a data set of their own."
    )
