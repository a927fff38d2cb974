"""Rows of sharded clips, read one after the other by many readers in an order that depends on seed and epoch."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset
from transformers.utils import logging

from .clip_source import COLUMNS
from .features import extract_clip
from .media import MediaError
from .shards import ShardIndex

__all__ = ["ClipStream", "Neighbours", "Share", "read_shards", "share_of"]

ROWS_AT_ONCE = 16
# What is raised for archives and tables that are cut off or were edited.
DAMAGE = (tarfile.TarError, pa.ArrowException, EOFError, LookupError, TypeError, UnicodeError)

logger = logging.get_logger(__name__)


def read_shards(index: ShardIndex, split: str) -> Dataset:
    """
    A whole split, memory-mapped from the `datasets` cache directory: `clip_id`, `label` and what is stored of each.

    Raises:
        ValueError: if there is no such split.
    """
    rows = datasets.load_dataset(index.container, data_files={split: _files(index, split)}, split=split)
    if index.container == "webdataset":
        rows = rows.remove_columns(["__key__", "__url__"]).flatten()
        rows = rows.rename_columns({"json.clip_id": "clip_id", "json.label": "label"})
    return rows.cast_column("label", ClassLabel(names=index.label_names))


def _files(index: ShardIndex, split: str) -> list[str]:
    if split not in index.splits:
        raise ValueError(f"{index.root} has no split {split!r}, only {', '.join(index.splits)}.")
    return index.files(split)


class Share:
    """
    What one of many readers reads of an epoch.

    Args:
        files: numbers of its shards.
        offset, step: of their rows it takes every `step`-th, from `offset` on.
    """

    def __init__(self, files: Sequence[int], offset: int = 0, step: int = 1) -> None:
        self.files, self.offset, self.step = list(files), offset, step


def share_of(order: Sequence[int], reader: int, readers: int) -> Share:
    """
    Deals shards in this `order` to readers: whole shards in turn, and where there are fewer shards than readers, rows
    of one shard in turn. No two readers share a row, and together they have all.
    """
    if len(order) >= readers:
        return Share(order[reader::readers])
    shard = reader % len(order)
    return Share([order[shard]], offset=reader // len(order), step=len(range(shard, readers, len(order))))


class ClipStream:
    """
    The clips of one split of [`ShardIndex`], from disk or from the Hub; a reader holds `buffer_size` of them.

    Args:
        index: of the shards.
        split: which split.
        processor: [`CavMaeProcessor`] that media are decoded for, every time they are read; features need none.
        num_frames, max_seconds: those of [`~data.extract_features`], for media.

    Raises:
        ValueError: if there is no such split.
    """

    def __init__(
        self,
        index: ShardIndex,
        split: str,
        processor: Any | None = None,
        num_frames: int = 10,
        max_seconds: float = 10.0,
    ) -> None:
        self.index, self.split, self.processor = index, split, processor
        self.options = {"num_frames": num_frames, "max_seconds": max_seconds}
        self.files = _files(index, split)

    def __len__(self) -> int:
        return self.index.num_clips(self.split)

    def rows(
        self,
        order_seed: Sequence[int] | None = None,
        *,
        part: int = 0,
        reader: int = 0,
        readers: int = 1,
        buffer_size: int = 1,
    ) -> Iterator[dict[str, Any]]:
        """
        Rows as [`~data.extract_features`] stores them, once each over all readers; media that cannot be read any more
        are left out with a warning.

        Args:
            order_seed: non-negative integers that decide the order of shards; `None` reads them as they were written.
            part: decides the order within a reader's own shards, without changing which they are.
            reader, readers: which of how many readers this is.
            buffer_size: rows that are shuffled among each other.
        """
        order = np.arange(len(self.files))
        if order_seed is not None:
            order = np.random.default_rng(order_seed).permutation(len(self.files))
        share = share_of(order.tolist(), reader, readers)
        rows = islice(self._read(share.files), share.offset, None, share.step)
        if order_seed is not None:
            rows = _shuffled(rows, buffer_size, np.random.default_rng([*order_seed, part, reader]))
        return filter(None, map(self._features, rows))

    def _read(self, shards: list[int]) -> Iterator[dict[str, Any]]:
        files = {self.split: [self.files[number] for number in shards]}
        try:
            rows = datasets.load_dataset(self.index.container, data_files=files, split=self.split, streaming=True)
            # not iter(rows), which would deal the shards to the workers of a DataLoader a second time
            for batch in rows.decode(False).iter(batch_size=ROWS_AT_ONCE):
                for values in zip(*batch.values(), strict=True):
                    yield dict(zip(batch, values, strict=True))
        except DAMAGE as error:
            raise ValueError(
                f"{self.index.root}: a shard of {self.split} is damaged ({type(error).__name__}: {error}); compare it "
                "with its sha256 in shards.json, and fetch or write it again."
            ) from error

    def _features(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """`None` for media that cannot be read any more: the readers of other ranks would wait for ever."""
        if self.index.container == "webdataset":
            row = row["json"] | row
        self._check(row)
        if self.index.store == "features":
            return row
        try:
            features = extract_clip(row, self.processor, **self.options)
        except MediaError as error:
            logger.warning(f"{self.index.root}: clip {row['clip_id']!r} is left out: {error}")
            return None
        return {"clip_id": row["clip_id"], "label": row["label"]} | features

    def _check(self, row: dict[str, Any]) -> None:
        """Shards are whole: a path in one would lead to whatever lies there on this machine."""
        for column in COLUMNS:
            cell = row.get(column)
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if cell is not None and not isinstance(content, bytes):
                raise ValueError(
                    f"{self.index.root}: clip {row['clip_id']!r} has no file in its column {column}; write the shards "
                    "anew with scripts/prepare_dataset.py."
                )
        if row["label"] not in range(len(self.index.label_names)):
            raise ValueError(
                f"{self.index.root}: clip {row['clip_id']!r} has label {row['label']!r} of "
                f"{len(self.index.label_names)} label_names."
            )


# IterableDataset.shuffle reads ten shards at once, each in a thread, and waits five seconds at the end of an epoch
def _shuffled(
    rows: Iterator[dict[str, Any]], buffer_size: int, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    buffer = list(islice(rows, buffer_size))
    for row in rows:
        place = int(random.integers(len(buffer)))
        yield buffer[place]
        buffer[place] = row
    yield from (buffer[place] for place in random.permutation(len(buffer)))


class Neighbours:
    """
    The last clips read, in place of the data set where one clip is mixed with another.

    Args:
        num_classes: of the labels.
        size: how many are held.
    """

    def __init__(self, num_classes: int, size: int = 64) -> None:
        self.features = {"label": datasets.ClassLabel(num_classes=num_classes)}
        self.size = size
        self.rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def with_format(self, _: None) -> Neighbours:
        return self

    def pass_through(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """`rows` one by one and unchanged; beside each are held those that follow it, at the end the last ones."""
        self.rows, place = list(islice(rows, self.size)), 0
        for following in rows:
            yield self.rows[place]
            self.rows[place] = following
            place = (place + 1) % self.size
        for offset in range(len(self.rows)):
            yield self.rows[(place + offset) % len(self.rows)]
