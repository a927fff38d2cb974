"""Views of clips that are read from shards one after the other, a share of them by every rank and worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import TrainingArguments

from ..data.augmentation import ViewTransform
from ..data.clip_stream import ClipStream, Neighbours


class StreamedViews(IterableDataset):
    """
    Augmented views of a stream of clips; what is held in memory does not grow with the number of clips.

    Order and views of an epoch depend on `seed`, the epoch, the number of readers (ranks times workers) and the batch
    size alone, so a run that is resumed with the same ones sees what the uninterrupted run sees: the Trainer reads
    past the batches that it has had. The state of `datasets` would be quicker, but it forgets the shuffle buffer.

    Every rank draws `len(views)` clips an epoch. Shards are dealt whole, so one reader's may hold a few clips more or
    less than its share: it leaves them out or, from the start again, shows some in a second view. Which ones changes
    with the epoch.

    Args:
        stream: the clips.
        transform: makes a view of a row; where it mixes clips its partners must be [`Neighbours`], or `None`.
        buffer_size: rows that a reader shuffles among each other.
        shuffled: whether to read in another order every epoch; otherwise the clips come as they were written.

    Attributes:
        seed, rank, ranks, batch_size: set by [`streamed_loader`] before the first epoch.
    """

    def __init__(
        self, stream: ClipStream, transform: ViewTransform, buffer_size: int = 256, shuffled: bool = True
    ) -> None:
        self.stream, self.transform = stream, transform
        self.buffer_size, self.shuffled = buffer_size, shuffled
        self.seed = self.epoch = self.rank = 0
        self.ranks = self.batch_size = 1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        """Clips of an epoch on this rank, the same number on all."""
        return len(self.stream) // self.ranks

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        reader, readers = self.rank * workers + number, self.ranks * workers
        return islice(self._views(reader, readers), clips_of_worker(len(self), self.batch_size, number, workers))

    def first(self, num_clips: int) -> list[dict[str, Any]]:
        """The first views of a run on one process, for calibration: the same ones on every rank."""
        return list(islice(self._views(0, 1), num_clips))

    def _views(self, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        for part in count():
            seed = [self.seed, self.epoch] if self.shuffled else None
            rows = self.stream.rows(seed, part=part, reader=reader, readers=readers, buffer_size=self.buffer_size)
            is_empty = True
            for row in self._with_neighbours(rows):
                is_empty = False
                yield self.transform.view(row, view_seed(self.seed, self.epoch, part, row["clip_id"]))
            if is_empty:
                raise ValueError(
                    f"reader {reader} of {readers} (ranks times workers) has no clip of {self.stream.index.root}: use "
                    "fewer workers, or write more shards with a smaller clips_per_shard."
                )

    def _with_neighbours(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        partners = getattr(self.transform, "partners", None)
        return partners.pass_through(rows) if isinstance(partners, Neighbours) else rows


def view_seed(seed: int, epoch: int, part: int, clip_id: str) -> int:
    """The seed of a clip's view, which no order of reading changes."""
    digest = hashlib.sha256(f"{seed} {epoch} {part} {clip_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def clips_of_worker(clips: int, batch_size: int, worker: int, workers: int) -> int:
    """Clips in every `workers`-th of the batches of an epoch: a `DataLoader` asks its workers in turn."""
    full, rest = divmod(clips, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    return sum(sizes[worker::workers])


def streamed_loader(
    views: StreamedViews, args: TrainingArguments, accelerator: Accelerator, collator: Any
) -> DataLoader:
    """The training loader of a rank: it reads its own shards, where accelerate would let rank 0 read all of them."""
    views.seed = args.seed if args.data_seed is None else args.data_seed
    views.rank, views.ranks = accelerator.process_index, accelerator.num_processes
    views.batch_size = args.train_batch_size
    loader = DataLoader(
        views,
        batch_size=args.train_batch_size,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        prefetch_factor=args.dataloader_prefetch_factor,
        # a worker that lives on would never hear of the next epoch
        persistent_workers=False,
    )
    return prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
        non_blocking=args.accelerator_config.non_blocking,
    )
