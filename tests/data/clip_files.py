"""Small clips on disk, for tests of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hf_emktd.data import ClipTable, write_clip

LABELS = ["bell", "dog", "rain"]
COUNTS = {"train": 13, "validation": 4}


def write_clips(folder: Path) -> Path:
    """A table of 13 training clips, the second corrupt and the third silent, and 4 for validation."""
    random = np.random.default_rng(0)
    lines = ["split,label,video"]
    for split, count in COUNTS.items():
        for index in range(count):
            name = f"{split}{index:02d}.mp4"
            sound = 0.2 * np.sin(np.arange(8000) * (0.02 + 0.01 * index)).astype(np.float32)
            sound *= name != "train02.mp4"
            write_clip(folder / name, random.integers(0, 256, (6, 32, 48, 3), np.uint8), 12, sound)
            lines.append(f"{split},{LABELS[index % 3]},{name}")
    (folder / "train01.mp4").write_bytes(b"no clip")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def clip_source(table: Path):
    return ClipTable(table)
