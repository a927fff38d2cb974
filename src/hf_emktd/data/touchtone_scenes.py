"""The built-in miniature of AVSBench: scenes of handwritten digits, of which those sound whose tones are heard."""

from __future__ import annotations

import csv
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .avsbench import NUM_FRAMES, SUBSETS, index_avsbench_layout, places_of
from .clip_source import ClipRow
from .generation import check_options, default_folder, identity_of, in_processes, make_once
from .media import PathLike
from .touchtone import (
    IMAGE_SHARES,
    SAMPLING_RATE,
    add_tone,
    draw_digit,
    draw_frequencies,
    draw_noise,
    draw_strokes,
    split_images,
    to_peak,
)

if TYPE_CHECKING:
    from .clip_source import ClipSource


__all__ = ["TOUCHTONE_SCENE_LABELS", "TouchtoneSceneOptions", "TouchtoneScenes", "draw_scene"]

KIND = "touchtone_scenes"
# AVSBench's subset in whose layout each subset lies
LAYOUTS = {"single": "s4", "multi": "ms3"}
TOUCHTONE_SCENE_LABELS = tuple(f"digit_{digit}" for digit in range(10))
# Part of every set's identity: raise it when the same options give other scenes.
GENERATOR_VERSION = 1
# Tones lie in this part of each second: VGGish examples are 0.96 s long, so the fifth ends 0.2 s before its second.
TONE_WINDOW = (0.05, 0.8)
# Each digit keeps to its own quarter of the picture.
QUARTERS = 4
# at most so many digits sound in the same second
MAX_SOUNDING = 3
# ink above this share belongs to the mask
MASK_INK = 0.5


@dataclass(frozen=True)
class TouchtoneSceneOptions:
    """
    Size and difficulty of a [`TouchtoneScenes`] set. Ranges are `(low, high)`, drawn uniformly.

    Args:
        num_train, num_validation, num_test: scenes of each split.
        image_size: side of the square frames in pixels.
        num_kinds: the scenes show the digits below this; fewer kinds are sooner told apart by ear.
        num_digits: digits in a scene, all different, 1 to 4.
        digit_scale: side of a digit as a share of the frame, at most a half.
        rotation_degrees: a digit is turned by up to this angle either way.
        jitter_pixels: a digit moves by up to this between frames, either way.
        contrast: difference between the ink of a digit and the background, 1 being the way from black to white.
        picture_noise: standard deviation of the pixel noise, in the same unit.
        max_strokes: up to this many stray strokes in the background.
        tone_snr_db: power of a tone pair over that of the noise (0 to 8 kHz), in decibels.
        tone_share: share of its time that a tone fills; digits that sound in the same second do so in turn.
        detune: each tone is off its frequency by up to this share, either way.
        peak_db: peak level of the sound in decibels below full scale.
        change_probability: of `"multi"`, how often other digits sound from one second to the next.
        nobody_probability: of `"multi"`, how often it is then none.
        seed: changes every random choice, but not which handwritten images belong to a split.

    Raises:
        ValueError: if a number is out of its range.
    """

    num_train: int = 800
    num_validation: int = 80
    num_test: int = 200
    image_size: int = 64
    num_kinds: int = 10
    num_digits: tuple[int, int] = (2, 4)
    digit_scale: tuple[float, float] = (0.36, 0.5)
    rotation_degrees: float = 10.0
    jitter_pixels: int = 1
    contrast: tuple[float, float] = (0.4, 0.9)
    picture_noise: tuple[float, float] = (0.02, 0.12)
    max_strokes: int = 2
    tone_snr_db: tuple[float, float] = (3.0, 20.0)
    tone_share: tuple[float, float] = (0.6, 1.0)
    detune: float = 0.01
    peak_db: tuple[float, float] = (-12.0, -3.0)
    change_probability: float = 0.4
    nobody_probability: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(self)
        if not 1 <= self.num_digits[0] <= self.num_digits[1] <= QUARTERS:
            raise ValueError(f"num_digits must lie between 1 and {QUARTERS}, got {self.num_digits}.")
        if not self.num_digits[1] <= self.num_kinds <= len(TOUCHTONE_SCENE_LABELS):
            raise ValueError(
                f"num_kinds must lie between the most digits of a scene, {self.num_digits[1]}, and "
                f"{len(TOUCHTONE_SCENE_LABELS)}, got {self.num_kinds}."
            )
        if self.digit_scale[1] > 0.5:
            raise ValueError(f"digit_scale must be at most 0.5, a quarter of the frame, got {self.digit_scale}.")

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of scenes by split."""
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}


def TouchtoneScenes(
    data_dir: PathLike | None = None, *, subset: str = "single", num_proc: int | None = None, **options
) -> ClipSource:
    """
    A small benchmark of sound-guided segmentation that needs no download, in the layout of AVSBench.

    Each scene shows two to four different handwritten digits for five seconds, and sounds the DTMF tone pairs of some;
    the masks are the ink of these. In `"single"` one digit sounds throughout and training scenes have a mask of their
    first frame only, as in S4; in `"multi"` up to three sound, changing on the way, at times none, and all frames have
    masks, as in MS3. Made on first use, read by [`AVSBench`] afterwards. Validation and test show handwriting that
    training does not. A scene takes about 0.25 MB.

    Args:
        data_dir: folder of the set, where `Single-source` or `Multi-sources` is made if it does not exist; *optional*,
            defaults to one for each choice of options in the `datasets` cache directory.
        subset: `"single"` or `"multi"`.
        num_proc: number of processes that make the scenes; *optional*, defaults to one a core.
        options: fields of [`TouchtoneSceneOptions`].

    Raises:
        ValueError: if `subset` is unknown, or the folder holds something else, or a set with other options.
    """
    if subset not in LAYOUTS:
        raise ValueError(f"unknown subset {subset!r}; expected {', '.join(map(repr, LAYOUTS))}.")
    settings, layout = TouchtoneSceneOptions(**options), LAYOUTS[subset]
    identity = identity_of(settings, subset=subset, generator_version=GENERATOR_VERSION)
    root = default_folder(KIND, identity) if data_dir is None else Path(data_dir)
    folder = root / SUBSETS[layout].folders[0]
    make_once(folder, KIND, identity, lambda unfinished: _write_set(unfinished, layout, settings, num_proc))
    return index_avsbench_layout(root, layout, TOUCHTONE_SCENE_LABELS if subset == "single" else None)


def _write_set(folder: Path, layout: str, options: TouchtoneSceneOptions, num_proc: int | None) -> None:
    folder.mkdir(parents=True)
    scenes = list(_scenes(options))
    _write_table(folder / SUBSETS[layout].table, layout, [row for row, _ in scenes])
    jobs = [(folder, layout, options, row, position) for row, position in scenes]
    in_processes(_write_scene, jobs, num_proc, "Touchtone scenes")


def _scenes(options: TouchtoneSceneOptions) -> Iterator[tuple[ClipRow, int]]:
    """Every scene and its position in its split, classes in turn."""
    number = 0
    for split, size in options.split_sizes.items():
        for position in range(size):
            label = TOUCHTONE_SCENE_LABELS[position % options.num_kinds]
            yield ClipRow(f"scene{number:06d}", split, label), position
            number += 1


def _write_table(path: Path, layout: str, rows: list[ClipRow]) -> None:
    splits = [row.split.replace("validation", "val") for row in rows]
    if layout == "s4":
        lines = [("name", "start", "category", "split")]
        lines += [(row.clip_id, 0, row.label, split) for row, split in zip(rows, splits, strict=True)]
    else:
        lines = [("video_id", "split"), *((row.clip_id, split) for row, split in zip(rows, splits, strict=True))]
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def _write_scene(job: tuple[Path, str, TouchtoneSceneOptions, ClipRow, int]) -> None:
    folder, layout, options, row, position = job
    subset = next(name for name in LAYOUTS if LAYOUTS[name] == layout)
    frames, masks, waveform = draw_scene(options, subset, row.split, position)
    places = places_of(row, layout, folder)
    for paths, pixels in [*zip(places.frames, frames, strict=True), *zip(places.masks, masks, strict=True)]:
        if paths:
            os.makedirs(os.path.dirname(paths[0]), exist_ok=True)
            Image.fromarray(pixels).save(paths[0])
    os.makedirs(os.path.dirname(places.audio[0]), exist_ok=True)
    _write_wav(places.audio[0], waveform)


def _write_wav(path: str, waveform: np.ndarray) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes((waveform * 32767).astype("<i2").tobytes())


def draw_scene(
    options: TouchtoneSceneOptions, subset: str, split: str, position: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Frames uint8 `(5, size, size, 3)`, masks bool `(5, size, size)` and waveform float32 `(80000,)` of one scene, the
    same for the same arguments.
    """
    random = np.random.default_rng(
        [options.seed, list(LAYOUTS).index(subset), list(IMAGE_SHARES).index(split), position]
    )
    count = int(random.integers(options.num_digits[0], options.num_digits[1] + 1))
    if subset == "single":
        first = position % options.num_kinds
        others = [digit for digit in range(options.num_kinds) if digit != first]
        digits = [first, *random.permutation(others)[: count - 1]]
        sounding = [np.array([0])] * NUM_FRAMES
    else:
        digits = random.permutation(options.num_kinds)[:count]
        sounding = _draw_sounding(count, options, random)
    frames, inks = _draw_frames([int(digit) for digit in digits], split, options, random)
    masks = np.stack([(ink[heard] > MASK_INK).any(0) for ink, heard in zip(inks, sounding, strict=True)])
    return frames, masks, _draw_waveform([[int(digits[i]) for i in heard] for heard in sounding], options, random)


def _draw_sounding(count: int, options: TouchtoneSceneOptions, random: np.random.Generator) -> list[np.ndarray]:
    """By second, which of `count` digits sound, in the order in which they do."""

    def draw() -> np.ndarray:
        heard = 0 if random.random() < options.nobody_probability else random.integers(1, min(count, MAX_SOUNDING) + 1)
        return random.permutation(count)[:heard]

    sounding = [draw()]
    while len(sounding) < NUM_FRAMES:
        sounding.append(draw() if random.random() < options.change_probability else sounding[-1])
    return sounding


def _draw_frames(
    digits: list[int], split: str, options: TouchtoneSceneOptions, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 `(5, size, size, 3)` and the ink of each digit, in [0, 1], `(5, digits, size, size)`."""
    size = options.image_size
    inks = np.zeros((NUM_FRAMES, len(digits), size, size), np.float32)
    background = random.uniform(0, 0.5, 3)
    frames = np.empty((NUM_FRAMES, size, size, 3), np.float32)
    strokes = draw_strokes(size, int(random.integers(options.max_strokes + 1)), random)[..., None]
    frames[:] = background + strokes * random.uniform(0, 0.5, 3)
    quarters = random.permutation(QUARTERS)
    for index, digit in enumerate(digits):
        _draw_moving_digit(inks[:, index], digit, divmod(int(quarters[index]), 2), split, options, random)
        colour = background + random.uniform(*options.contrast)
        frames += inks[:, index, ..., None] * (colour - frames)
    frames += random.uniform(*options.picture_noise) * random.standard_normal(frames.shape, dtype=np.float32)
    return (frames.clip(0, 1) * 255).astype(np.uint8), inks


def _draw_moving_digit(
    inks: np.ndarray,
    digit: int,
    quarter: tuple[int, int],
    split: str,
    options: TouchtoneSceneOptions,
    random: np.random.Generator,
) -> None:
    """Draws one digit into its quarter (row, column) of every frame `(5, size, size)`, moving a little."""
    half, images = options.image_size // 2, split_images(split)[digit]
    side = int(random.uniform(*options.digit_scale) * options.image_size)
    image = draw_digit(images[random.integers(len(images))], side, options.rotation_degrees, random)
    corner = half * np.array(quarter) + random.integers(0, half - side + 1, 2)
    ink = np.asarray(image, np.float32) / 255
    for canvas in inks:
        shift = random.integers(-options.jitter_pixels, options.jitter_pixels + 1, 2)
        top, left = (corner + shift).clip(0, options.image_size - side)
        canvas[top : top + side, left : left + side] = ink


def _draw_waveform(
    sounding: list[list[int]], options: TouchtoneSceneOptions, random: np.random.Generator
) -> np.ndarray:
    """The tones of the digits of each second, one after the other, in noise."""
    waveform = draw_noise(NUM_FRAMES * SAMPLING_RATE, random)
    power = 10 ** (random.uniform(*options.tone_snr_db) / 10)
    for second, digits in enumerate(sounding):
        edges = np.linspace(*TONE_WINDOW, len(digits) + 1) + second
        for digit, start, stop in zip(digits, edges[:-1], edges[1:], strict=True):
            slot = waveform[round(start * SAMPLING_RATE) : round(stop * SAMPLING_RATE)]
            seconds = random.uniform(*options.tone_share) * (stop - start)
            add_tone(slot, draw_frequencies(digit, options.detune, random), power, seconds, random)
    return to_peak(waveform, random.uniform(*options.peak_db))
