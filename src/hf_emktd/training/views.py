"""Views of the training clips by seed, and the sampler that decides order and seeds of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..data.augmentation import ClipTransform

ViewKey = int | tuple[int, int]


class ClipViews(Dataset):
    """
    Augmented views of stored clips.

    `views[clip, seed]` is the view of a clip that belongs to a seed, always the same one; [`ClipSampler`] asks for
    these. `views[clip]` draws the seed from torch's generator, for use without that sampler.

    Args:
        features: rows as [`~data.features.extract_features`] stores them.
        transform: makes a view of a row.

    Attributes:
        num_views: how many views of a clip there are; `None`: one for every seed.
    """

    num_views: int | None = None

    def __init__(self, features: datasets.Dataset, transform: ClipTransform):
        self.features = features.with_format(None)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, key: ViewKey) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[ViewKey]) -> list[dict[str, Any]]:
        """The views of a whole batch, read from the stored features at once."""
        clips, seeds = zip(*(key if isinstance(key, tuple) else (key, _random_seed()) for key in keys), strict=True)
        columns = self.features[list(clips)]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return [self.transform.view(row, seed) for row, seed in zip(rows, seeds, strict=True)]


class ClipSampler(Sampler):
    """
    The clips of an epoch in random order, with the seeds of their views: both depend on `seed` and epoch alone.

    So a run sees the same views however many processes and accumulation steps share a batch, whatever else draws
    random numbers, and after a resume in the middle of an epoch.

    Args:
        num_clips: clips of the data set, and draws of an epoch.
        seed: non-negative.
        weights: *optional*, `(num_clips,)`; clips are then drawn in proportion to them, with replacement.
        with_view_seeds: whether to give `(clip, seed)`, for [`ClipViews`], or the clip's index alone.
        num_views: *optional*, how many views each clip has; gives `(clip, view)` then, every view of a clip once in as
            many epochs, in an order of its own.
    """

    def __init__(
        self,
        num_clips: int,
        seed: int,
        weights: np.ndarray | None = None,
        with_view_seeds: bool = False,
        num_views: int | None = None,
    ) -> None:
        self.num_clips = num_clips
        self.seed = seed
        self.shares = None if weights is None else weights / weights.sum()
        self.with_view_seeds = with_view_seeds
        self.num_views = num_views
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[ViewKey]:
        random = np.random.default_rng([self.seed, self.epoch])
        if self.shares is None:
            order = random.permutation(self.num_clips)
        else:
            order = random.choice(self.num_clips, size=self.num_clips, p=self.shares)
        if self.num_views is not None:
            return zip(order.tolist(), self._views_of_epoch(order).tolist(), strict=True)
        if not self.with_view_seeds:
            return iter(order.tolist())
        return zip(order.tolist(), random.integers(2**63 - 1, size=self.num_clips).tolist(), strict=True)

    def _views_of_epoch(self, order: np.ndarray) -> np.ndarray:
        """Which of its views each clip of `order` shows in this epoch; drawn twice, it shows two."""
        cycle, place = divmod(self.epoch, self.num_views)
        random = np.random.default_rng([self.seed, cycle, self.num_views])
        turns = random.permuted(np.tile(np.arange(self.num_views), (self.num_clips, 1)), axis=1)
        return turns[order, (place + _times_before(order)) % self.num_views]


def _times_before(values: np.ndarray) -> np.ndarray:
    """How often each entry of `values` occurs before its own place."""
    by_value = values.argsort(kind="stable")
    ordered = values[by_value]
    times = np.empty_like(by_value)
    times[by_value] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return times


def _random_seed() -> int:
    return int(torch.randint(2**63 - 1, ()))
