"""Tables of clips with seeded damage, read by all who read tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hf_emktd.data import AVSBench, ClipSource, ClipTable, VGGSound

OWN = (
    "clip_id,split,label,video\r\n"
    + "".join(f'c{i},{split},"dog, {i % 2}",v{i}.mp4\r\n' for i, split in enumerate(["train"] * 4 + ["val", "test"]))
    + "c9,train,cat,../c.mp4\r\n"
)
APART = "split\tlabel\timage\taudio\n" + "".join(f"train\t{i}\tp{i}.png\ts{i}.wav\n" for i in range(4))
VGG = '-a,3,people coughing,train\n__,120,"bird chirping, tweeting",train\nglLQ,300,playing hammond organ,test\n'
PIECES = ('"', '""', ",", "\n", "\r", "\r\n", "\t", ";", "\0", "\ufeff", "../", "/", " ", "x" * 140_000, "=1+1", "%s")
AVS = "name,category,split\na,dog,train\nb,cat,val\nc,dog,test\n"


def damaged(content: str, seed: int) -> str:
    """One to three changes of a character, a piece or a line."""
    random = np.random.default_rng([2, seed])
    for _ in range(random.integers(1, 4)):
        lines, place = content.splitlines(keepends=True), int(random.integers(len(content) + 1))
        row = int(random.integers(len(lines))) if lines else 0
        piece = PIECES[random.integers(len(PIECES))]
        match random.integers(6):
            case 0:
                content = content[:place] + piece + content[place:]
            case 1:
                content = content[:place] + piece + content[place + 1 :]
            case 2:
                content = content[:place] + content[place + int(random.integers(1, 9)) :]
            case 3:
                content = "".join([*lines[: row + 1], *lines[row:]])
            case 4:
                content = "".join([*lines[:row], *lines[row + 1 :]])
            case 5:
                content = "".join([*lines[:row], "".join(lines[row : row + 1]).swapcase(), *lines[row + 1 :]])
    return content


def check_damaged_tables(folder: Path, seeds: Iterable[int]) -> tuple[int, int]:
    """How many damaged tables were read, and how many refused with `ValueError` or `FileNotFoundError`."""
    kinds = [_own(folder), _apart(folder), _vggsound(folder), _avsbench(folder)]
    outcomes = Counter()
    for seed in seeds:
        path, content, load = kinds[seed % len(kinds)]
        path.write_bytes(damaged(content, seed).encode("utf-8-sig" if seed % 3 else "utf-8"))
        try:
            check_counts(load())
            outcomes["read"] += 1
        except (ValueError, FileNotFoundError) as error:
            assert str(path) in str(error) or str(path.parent) in str(error), error
            outcomes["refused"] += 1
    return outcomes["read"], outcomes["refused"]


def check_counts(source: ClipSource) -> None:
    """Every row that is named is there or counted, and labels are those of the source."""
    report = source.report
    for split, rows in report.rows.items():
        counts = report.counts.get(split, {})
        clips = source.splits.get(split, [])
        left_out = {name for kind in ("missing", "corrupt", "maskless") for name in report.clip_ids(split, kind)}
        assert rows == report.found[split] + len(left_out) and report.found[split] == len(clips), (rows, counts)
        if len(clips):
            assert clips.features["label"].names == source.label_names and not left_out & set(clips["clip_id"])


def _put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"content")


def _own(folder: Path):
    for name in ("v0", "v1", "v2", "v4"):
        _put(folder / "own" / f"{name}.mp4")
    return folder / "own" / "clips.csv", OWN, lambda: ClipTable(folder / "own" / "clips.csv", allow_outside_root=True)


def _apart(folder: Path):
    for name in ("p0.png", "s0.wav", "p1.png"):
        _put(folder / "apart" / name)
    return folder / "apart" / "clips.tsv", APART, lambda: ClipTable(folder / "apart" / "clips.tsv")


def _vggsound(folder: Path):
    for name in ("-a_000003.mp4", "glLQ_000300.mp4"):
        _put(folder / "vggsound" / name)
    return folder / "vggsound" / "vggsound.csv", VGG, lambda: VGGSound(folder / "vggsound")


def _avsbench(folder: Path):
    data = folder / "avsbench" / "s4_data"
    for split, label, name in (("train", "dog", "a"), ("val", "cat", "b")):
        for number in range(1, 6):
            _put(data / "visual_frames" / split / label / name / f"{name}_{number}.png")
            _put(data / "gt_masks" / split / label / name / f"{name}_{number}.png")
    return folder / "avsbench" / "s4_meta_data.csv", AVS, lambda: AVSBench(folder / "avsbench")
