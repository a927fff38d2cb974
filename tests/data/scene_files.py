"""Small folders in the layout of AVSBench, written independently of the code under test."""

from __future__ import annotations

import csv
import wave
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 8


def write_csv(path: Path, rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_wav(path: Path, seconds: float = 5.0, hertz: float = 440.0, other_channel: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)
    channels = [samples] if other_channel is None else [samples, other_channel]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.stack(channels, 1) * 32767).astype("<i2").tobytes())


def write_frame(path: Path, level: int) -> None:
    """A picture of a grey ramp whose top row has this level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.arange(SIDE)[:, None, None] * 5 + level, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, columns: int = 2) -> None:
    """White in so many columns on the left, black elsewhere, one bit a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE), bool)
    pixels[:, :columns] = True
    Image.fromarray(pixels).save(path)


def write_s4(root: Path, names: dict[str, tuple[str, str]]) -> Path:
    """Scenes by name, with split as on disk and category, all complete; only what official training has of masks."""
    folder = root / "Single-source"
    write_csv(
        folder / "s4_meta_data.csv",
        [("name", "start", "category", "split"), *((name, 0, kind, split) for name, (split, kind) in names.items())],
    )
    for name, (split, kind) in names.items():
        data, part = folder / "s4_data", Path(split, kind)
        write_wav(data / "audio_wav" / part / f"{name}.wav")
        for k in range(1, 6):
            write_frame(data / "visual_frames" / part / name / f"{name}_{k}.png", 20 * k)
            if split != "train" or k == 1:
                write_mask(data / "gt_masks" / part / name / f"{name}_{k}.png", k)
    return folder


def write_ms3(root: Path, names: dict[str, str], frame_infix: str = ".mp4", mask_infix: str = "") -> Path:
    """Scenes by name, with split as on disk, all complete."""
    folder = root / "Multi-sources"
    write_csv(folder / "ms3_meta_data.csv", [("video_id", "split"), *names.items()])
    for name, split in names.items():
        data = folder / "ms3_data"
        write_wav(data / "audio_wav" / split / f"{name}.wav")
        for k in range(1, 6):
            write_frame(data / "visual_frames" / name / f"{name}{frame_infix}_{k}.png", 20 * k)
            write_mask(data / "gt_masks" / split / name / f"{name}{mask_infix}_{k}.png", k)
    return folder


def write_avss(root: Path, names: dict[str, tuple[str, str]]) -> Path:
    """Scenes by name, with split as on disk and v1s, v1m or v2, all complete; masks in colours."""
    write_csv(
        root / "metadata.csv",
        [("vid", "uid", "label", "split"), *((name, name, kind, split) for name, (split, kind) in names.items())],
    )
    for name, (split, kind) in names.items():
        folder = root / kind / name
        write_wav(folder / "audio.wav", 10.0 if kind == "v2" else 5.0)
        (folder / "labels_rgb").mkdir(parents=True)
        for k in range(10 if kind == "v2" else 5):
            write_frame(folder / "frames" / f"{k}.jpg", 20 * k)
            if split != "train" or kind != "v1s" or k == 0:
                pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
                pixels[:, :2] = (0, 128, 0)
                Image.fromarray(pixels).save(folder / "labels_rgb" / f"{k}.png")
    return root
