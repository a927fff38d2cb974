"""Clips of ten classes, and somebody who removes files as soon as a run begins to read them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hf_emktd.data import write_clip

CLASSES = "abcdefghij"


def write_classes(folder: Path, train: int, validation: int) -> Path:
    """A table of so many clips of each class, sorted by class: the last class is read last."""
    random = np.random.default_rng(0)
    lines = ["split,label,video"]
    for split, count in (("train", train), ("validation", validation)):
        for name in CLASSES:
            for index in range(count):
                file = f"{split}_{name}{index}.mp4"
                sound = 0.2 * np.sin(np.arange(8000) * random.uniform(0.01, 0.3)).astype(np.float32)
                write_clip(folder / file, random.integers(0, 256, (6, 32, 32, 3), np.uint8), 12, sound)
                lines.append(f"{split},{name},{file}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


@contextmanager
def vanishing(files: Sequence[Path], cache: Path) -> Iterator[None]:
    """Removes the files when features are begun to be stored below `cache`; a folder that is there already is old."""
    old, ended = set(_begun(cache)), threading.Event()
    thread = threading.Thread(target=_remove, args=(files, cache, old, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _begun(cache: Path) -> list[Path]:
    return list(cache.glob("hf_emktd_features/*"))


def _remove(files: Sequence[Path], cache: Path, old: set[Path], ended: threading.Event) -> None:
    while not ended.is_set():
        if set(_begun(cache)) - old:
            for file in files:
                file.unlink()
            return
        time.sleep(0.001)
