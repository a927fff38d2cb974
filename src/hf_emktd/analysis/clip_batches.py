"""The clips of a split in batches on the device, as all analyses read them."""

from __future__ import annotations

from collections.abc import Iterator

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import ProcessorMixin

from ..data.collators import AudioVisualCollator
from ..training.clip_data import ClipData


def device_at_hand() -> torch.device:
    """The accelerator, or the CPU where there is none. An analysis runs in one process."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def chosen_clips(clips: int, most: int | None, seed: int = 0) -> np.ndarray:
    """Indices of all clips, or of `most` random ones in their order: tables are often sorted by class."""
    if most is None or most >= clips:
        return np.arange(clips)
    return np.sort(np.random.default_rng(seed).permutation(clips)[:most])


def clip_views(
    data: ClipData, split: str, most: int | None = None, processor: ProcessorMixin | None = None, seed: int = 0
) -> datasets.Dataset:
    """Views of a split as evaluation takes them, of at most so many random clips: the same for the same `seed`."""
    views = data.plain_views(split, processor=processor)
    return views.select(chosen_clips(len(views), most, seed))


def clip_batches(
    views: datasets.Dataset, batch_size: int, device: torch.device, description: str
) -> Iterator[dict[str, Tensor]]:
    """Batches of [`AudioVisualCollator`], in the order of the views."""
    loader = DataLoader(views, batch_size=batch_size, collate_fn=AudioVisualCollator())
    for batch in tqdm(loader, desc=description):
        yield {name: value.to(device) for name, value in batch.items()}
