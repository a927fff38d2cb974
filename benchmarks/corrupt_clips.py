"""Write a copy of a table of pictures and sounds in which neither sense suffices alone.

    python ../shared/data/build_avdigits.py clips runs/avdigits/clean
    python benchmarks/corrupt_clips.py runs/avdigits/clean/clips.csv runs/avdigits/corrupted

In all splits a share of the clips has its picture mostly covered or lost in noise, another share, of other clips, has
its sound drowned in noise, and every clip has mild noise on both. The table of the copy, clips.csv, says in its column
`corrupted` which was done: none, picture or sound. The same arguments give the same files; a finished copy is left as
it is, an interrupted one leaves nothing behind.
"""

from __future__ import annotations

import argparse
import csv
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hf_emktd.data import ClipTable, read_clip, read_image
from hf_emktd.data.clip_source import ClipSource
from hf_emktd.data.generation import in_processes, make_once
from hf_emktd.data.touchtone import draw_noise, to_peak

SAMPLING_RATE = 16_000
KIND = "corrupted_clips"
# Part of every copy's identity: raise it when the same arguments give other files.
VERSION = 1

# Standard deviation of the noise of a picture, 1 being the way from black to white.
MILD_NOISE, HEAVY_NOISE = (0.02, 0.15), (0.3, 0.5)
# What is left of the contrast under heavy noise, and the share of the picture that a cover hides.
FADED, COVERED = (0.05, 0.3), (0.5, 1.0)
# Power of the sound over that of the noise, and peak level of their sum, in decibels.
MILD_SNR_DB, DROWNED_SNR_DB, PEAK_DB = (10.0, 25.0), (-25.0, -10.0), (-20.0, -3.0)
# Cells of noise along the longer side: finer noise would vanish when a photograph is shrunk to a model's input.
NOISE_CELLS = 28


@dataclass(frozen=True)
class Job:
    """One clip of the copy: what to read, where to write, what to do and the seeds of how."""

    image: str
    audio: str
    folder: Path
    clip_id: str
    corrupted: str
    seeds: tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="Table of clips with the columns split, label, image and audio.")
    parser.add_argument("output_dir", type=Path, help="Folder of the copy.")
    parser.add_argument("--picture_share", default=0.25, type=float, help="Share of clips without a useful picture.")
    parser.add_argument("--sound_share", default=0.25, type=float, help="Share of other clips without a useful sound.")
    parser.add_argument("--seed", default=0, type=int, help="Changes every random choice.")
    parser.add_argument("--num_proc", type=int, help="Processes; by default one a core.")
    args = parser.parse_args()
    shares = {"picture": args.picture_share, "sound": args.sound_share}
    if min(shares.values()) < 0 or sum(shares.values()) > 1:
        parser.error(f"shares must not be negative and sum to at most 1, got {shares}")
    print(corrupt_table(args.table, args.output_dir, shares, args.seed, args.num_proc))


def corrupt_table(
    table: Path, output_dir: Path, shares: dict[str, float], seed: int = 0, num_proc: int | None = None
) -> Path:
    """
    The table of the copy of `table` in `output_dir`, made unless it is there.

    Raises:
        ValueError: if a clip has no picture or no sound, or the folder holds something else.
    """
    source = ClipTable(table)
    identity = {"version": VERSION, "clips": source.report.manifest_hash, "shares": shares, "seed": seed}
    make_once(output_dir, KIND, identity, lambda folder: _write_copy(source, folder, shares, seed, num_proc))
    return output_dir / "clips.csv"


def draw_kinds(count: int, shares: dict[str, float], random: np.random.Generator) -> np.ndarray:
    """`count` names, of each kind of `shares` as many as it says, the others `"none"`, in random order."""
    kinds = [kind for kind, share in shares.items() for _ in range(round(share * count))]
    return random.permutation((kinds + ["none"] * count)[:count])


def corrupt_picture(picture: np.ndarray, heavily: bool, random: np.random.Generator) -> np.ndarray:
    """Uint8 `(height, width, 3)` with mild noise and, if `heavily`, covered or faded under heavy noise."""
    pixels = picture.astype(np.float32) / 255
    noise = random.uniform(*MILD_NOISE)
    if heavily and random.random() < 0.5:
        pixels[_draw_cover(pixels.shape[:2], random)] = random.uniform(0, 1)
    elif heavily:
        mean = pixels.mean()
        pixels = mean + random.uniform(*FADED) * (pixels - mean)
        noise = random.uniform(*HEAVY_NOISE)
    pixels += noise * _draw_cells(pixels.shape[:2], random)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def corrupt_sound(waveform: np.ndarray, heavily: bool, random: np.random.Generator) -> np.ndarray:
    """Float32 `(samples,)` with mild noise or, if `heavily`, drowned in it, at a random level."""
    snr_db = random.uniform(*(DROWNED_SNR_DB if heavily else MILD_SNR_DB))
    power = np.square(waveform, dtype=np.float64).mean()
    # of a silent recording nothing but noise
    noisy = draw_noise(len(waveform), random) + waveform * np.sqrt(10 ** (snr_db / 10) / max(power, 1e-12))
    return to_peak(noisy, random.uniform(*PEAK_DB))


def _draw_cover(size: tuple[int, int], random: np.random.Generator) -> tuple[slice, slice]:
    """The part of a picture of `(height, width)` that is hidden, from one of its four sides on."""
    axis, from_the_end = random.integers(2, size=2)
    length = round(random.uniform(*COVERED) * size[axis])
    hidden = slice(size[axis] - length, None) if from_the_end else slice(length)
    return (hidden, slice(None)) if axis == 0 else (slice(None), hidden)


def _draw_cells(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Noise of deviation 1 `(height, width, 1)`, the same for all colours, in square cells."""
    cell = max(1, -(-max(size) // NOISE_CELLS))
    cells = random.standard_normal([-(-side // cell) for side in size], dtype=np.float32)
    return cells.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1], None]


def _write_copy(source: ClipSource, folder: Path, shares: dict[str, float], seed: int, num_proc: int | None) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "audio").mkdir()
    jobs, lines = [], []
    for number, (split, rows) in enumerate(source.splits.items()):
        kinds = draw_kinds(len(rows), shares, np.random.default_rng([seed, number]))
        for row, kind in zip(rows, kinds, strict=True):
            files = _files(row)
            jobs.append(Job(*files, folder, row["clip_id"], str(kind), (seed, len(jobs))))
            label = source.label_names[row["label"]]
            lines.append([row["clip_id"], split, label, *_names(row["clip_id"]), kind])
    in_processes(_write_clip, jobs, num_proc, "Corrupted clips")
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["clip_id", "split", "label", "image", "audio", "corrupted"])
        table.writerows(lines)


def _files(row: dict) -> tuple[str, str]:
    files = row.get("image"), row.get("audio")
    if None in files:
        raise ValueError(f"clip {row['clip_id']} has image {files[0]} and audio {files[1]}; it needs a file of each.")
    return files


def _names(clip_id: str) -> tuple[str, str]:
    return f"images/{clip_id}.png", f"audio/{clip_id}.wav"


def _write_clip(job: Job) -> None:
    random = np.random.default_rng(job.seeds)
    image, audio = (job.folder / name for name in _names(job.clip_id))
    picture = corrupt_picture(read_image(job.image), job.corrupted == "picture", random)
    Image.fromarray(picture).save(image)
    waveform = read_clip(job.audio, sampling_rate=SAMPLING_RATE, read_video=False).waveform
    _write_wav(audio, corrupt_sound(waveform, job.corrupted == "sound", random))


def _write_wav(path: Path, waveform: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
        file.writeframes((waveform * 32767).round().astype("<i2").tobytes())


if __name__ == "__main__":
    main()
