"""The built-in miniature of VGGSound: handwritten digits with their telephone tones, made on first use as mp4s."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from .generation import check_options, default_folder, identity_of, in_processes, make_once
from .media import PathLike, write_clip
from .vggsound import index_vggsound_layout

if TYPE_CHECKING:
    from .clip_source import ClipSource


__all__ = ["TOUCHTONE_LABELS", "Touchtone", "TouchtoneOptions"]

TOUCHTONE_LABELS = tuple(f"digit {digit}" for digit in range(10))
# Hz of each digit's two tones (ITU-T Q.23)
DTMF_FREQUENCIES = (
    (941, 1336),
    (697, 1209),
    (697, 1336),
    (697, 1477),
    (770, 1209),
    (770, 1336),
    (770, 1477),
    (852, 1209),
    (852, 1336),
    (852, 1477),
)
# share of the 1,797 handwritten images in each split, whatever the seed: no image is in two splits
IMAGE_SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
KIND = "touchtone"
CSV_NAME = "touchtone.csv"
CLIPS_FOLDER = "clips"
SAMPLING_RATE = 16000
FRAMES_PER_SECOND = 10
TONE_RAMP_SECONDS = 0.01
# Part of every set's identity: raise it when the same options give other clips.
GENERATOR_VERSION = 1


@dataclass(frozen=True)
class TouchtoneOptions:
    """
    Size and difficulty of a [`Touchtone`] set. Ranges are `(low, high)`, drawn uniformly for each clip.

    Args:
        num_train, num_validation, num_test: clips of each split, classes in turn.
        image_size: side of the square frames in pixels, even.
        seconds: length of a clip.
        occluded_probability: share of clips whose digit is mostly covered (sound must tell).
        drowned_probability: share of clips whose tone is mostly drowned in noise (the picture must tell).
        both_hard_probability: share of clips that are covered and drowned.
        picture_noise: standard deviation of the pixel noise, 1 being the way from black to white.
        contrast: difference between ink and background, in the same unit.
        occlusion: covered share of the digit in an occluded clip.
        max_strokes: up to this many stray strokes in the background.
        digit_scale: side of the digit as a share of the frame.
        rotation_degrees: the digit is turned by up to this angle either way.
        jitter_pixels: the digit moves by up to this between frames, either way.
        tone_snr_db: power of the tone pair, while it sounds, over that of the noise (0 to 8 kHz), in decibels.
        drowned_snr_db: the same in a drowned clip.
        tone_seconds: length of the tone.
        detune: each tone is off its frequency by up to this share, either way.
        max_beeps: up to this many stray beeps of a random frequency between 600 and 1600 Hz.
        peak_db: peak level of the sound in decibels below full scale.
        seed: changes every random choice, but not which handwritten images belong to a split.

    Raises:
        ValueError: if a number is out of its range.
    """

    num_train: int = 4000
    num_validation: int = 500
    num_test: int = 1000
    image_size: int = 32
    seconds: float = 0.7
    occluded_probability: float = 0.3
    drowned_probability: float = 0.3
    both_hard_probability: float = 0.02
    picture_noise: tuple[float, float] = (0.02, 0.2)
    contrast: tuple[float, float] = (0.4, 0.95)
    occlusion: tuple[float, float] = (0.7, 1.0)
    max_strokes: int = 2
    digit_scale: tuple[float, float] = (0.85, 1.0)
    rotation_degrees: float = 10.0
    jitter_pixels: int = 1
    tone_snr_db: tuple[float, float] = (-10.0, 5.0)
    drowned_snr_db: tuple[float, float] = (-40.0, -25.0)
    tone_seconds: tuple[float, float] = (0.15, 0.6)
    detune: float = 0.01
    max_beeps: int = 2
    peak_db: tuple[float, float] = (-25.0, -3.0)
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(self)
        hard = self.occluded_probability + self.drowned_probability + self.both_hard_probability
        if hard > 1:
            raise ValueError(f"occluded, drowned and both_hard probability must sum to at most 1, got {hard}.")
        if self.image_size % 2 or self.image_size < 16:
            raise ValueError(f"image_size must be even (H.264) and at least 16, got {self.image_size}.")
        if self.tone_seconds[1] > self.seconds:
            raise ValueError(f"tone_seconds={self.tone_seconds} is longer than the clip's seconds={self.seconds}.")

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of clips by split."""
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}


def Touchtone(data_dir: PathLike | None = None, *, num_proc: int | None = None, **options) -> ClipSource:
    """
    A small audio-visual benchmark that needs no download, in the layout of VGGSound.

    Each clip shows a handwritten digit (`sklearn.datasets.load_digits`, drawn large) and sounds its DTMF tone pair.
    In some clips the picture is covered, in others the tone is drowned in noise, so neither suffices alone. Made on
    first use, read like a VGGSound folder afterwards: `touchtone.csv` (id, start, label, split; no header) and
    `clips/<id>_<start, 6 digits>.mp4`. Validation and test show handwriting that training does not.

    Args:
        data_dir: folder of the set, made if it does not exist; *optional*, defaults to one for each choice of options
            in the `datasets` cache directory.
        num_proc: number of processes that make the clips; *optional*, defaults to one a core.
        options: fields of [`TouchtoneOptions`].

    Raises:
        ValueError: if `data_dir` holds something else, or a set with other options.
    """
    settings = TouchtoneOptions(**options)
    identity = identity_of(settings, generator_version=GENERATOR_VERSION)
    folder = default_folder(KIND, identity) if data_dir is None else Path(data_dir)
    make_once(folder, KIND, identity, lambda unfinished: _write_set(unfinished, settings, num_proc))
    return index_vggsound_layout(folder / CSV_NAME, folder / CLIPS_FOLDER, TOUCHTONE_LABELS)


def _write_set(folder: Path, options: TouchtoneOptions, num_proc: int | None) -> None:
    (folder / CLIPS_FOLDER).mkdir(parents=True)
    clips = list(_clips(options))
    with open(folder / CSV_NAME, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            (clip_id, 0, TOUCHTONE_LABELS[digit], split) for clip_id, split, _, digit in clips
        )
    jobs = [(folder / CLIPS_FOLDER / f"{clip_id}_000000.mp4", options, *clip) for clip_id, *clip in clips]
    in_processes(_write, jobs, num_proc, "Touchtone")


def _clips(options: TouchtoneOptions) -> Iterator[tuple[str, str, int, int]]:
    """Id of 11 characters, as on YouTube, split, position in the split and digit of every clip."""
    number = 0
    for split, size in options.split_sizes.items():
        for position in range(size):
            yield f"touch{number:06d}", split, position, position % len(TOUCHTONE_LABELS)
            number += 1


def _write(job: tuple[Path, TouchtoneOptions, str, int, int]) -> None:
    path, options, split, position, digit = job
    frames, waveform = draw_clip(options, split, position, digit)
    write_clip(path, frames, FRAMES_PER_SECOND, waveform, SAMPLING_RATE)


def draw_clip(options: TouchtoneOptions, split: str, position: int, digit: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Frames uint8 `(N, size, size, 3)` and waveform float32 `(samples,)` of one clip, the same for the same arguments.
    """
    random = np.random.default_rng([options.seed, list(IMAGE_SHARES).index(split), position])
    occluded, drowned = _draw_difficulty(options, random)
    images = split_images(split)[digit]
    image = images[random.integers(len(images))]
    frames = _draw_frames(image, occluded, options, random)
    return frames, _draw_waveform(digit, drowned, options, random)


@cache
def split_images(split: str) -> list[np.ndarray]:
    """The 8x8 images of one split, uint8 `(images, 8, 8)` for each digit."""
    data = load_digits()
    first = sum(list(IMAGE_SHARES.values())[: list(IMAGE_SHARES).index(split)])
    images = []
    for digit in range(10):
        own = np.random.default_rng(digit).permutation(np.flatnonzero(data.target == digit))
        start, stop = round(first * len(own)), round((first + IMAGE_SHARES[split]) * len(own))
        images.append((data.images[own[start:stop]] * (255 / 16)).astype(np.uint8))
    return images


def _draw_difficulty(options: TouchtoneOptions, random: np.random.Generator) -> tuple[bool, bool]:
    draw = random.random() - options.both_hard_probability
    if draw < 0:
        return True, True
    occluded = draw < options.occluded_probability
    return occluded, not occluded and draw < options.occluded_probability + options.drowned_probability


def _draw_frames(
    image: np.ndarray, occluded: bool, options: TouchtoneOptions, random: np.random.Generator
) -> np.ndarray:
    size = options.image_size
    ink, (left, top, side) = _draw_ink(image, options, random)
    background, contrast = random.uniform(0, 0.5, 3), random.uniform(*options.contrast)
    colour = background + contrast
    strokes = draw_strokes(size, int(random.integers(options.max_strokes + 1)), random)
    cover = _draw_cover(left, top, side, random.uniform(*options.occlusion), random) if occluded else None
    cover_colour = random.uniform(0, 1, 3)
    num_frames = max(1, round(options.seconds * FRAMES_PER_SECOND))
    shifts = random.integers(-options.jitter_pixels, options.jitter_pixels + 1, (num_frames, 2))
    frames = np.empty((num_frames, size, size, 3), np.float32)
    for frame, shift in zip(frames, shifts, strict=True):
        alpha = np.maximum(np.roll(ink, shift, axis=(0, 1)), strokes)[..., None]
        frame[:] = background + alpha * (colour - background)
        if cover is not None:
            frame[cover] = cover_colour
    frames += random.uniform(*options.picture_noise) * random.standard_normal(frames.shape, dtype=np.float32)
    return (frames.clip(0, 1) * 255).astype(np.uint8)


def _draw_ink(
    image: np.ndarray, options: TouchtoneOptions, random: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Ink in [0, 1] `(size, size)` and the square (left, top, side) that the digit fills."""
    size = options.image_size
    side = round(random.uniform(*options.digit_scale) * size)
    left, top = (int(edge) for edge in random.integers(0, size - side + 1, 2))
    canvas = Image.new("L", (size, size))
    canvas.paste(draw_digit(image, side, options.rotation_degrees, random), (left, top))
    return np.asarray(canvas, np.float32) / 255, (left, top, side)


def draw_digit(image: np.ndarray, side: int, rotation_degrees: float, random: np.random.Generator) -> Image.Image:
    """An 8x8 image enlarged to a square of `side` and turned by up to `rotation_degrees` either way."""
    angle = random.uniform(-rotation_degrees, rotation_degrees)
    digit = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return digit.rotate(angle, Image.Resampling.BILINEAR)


def draw_strokes(size: int, count: int, random: np.random.Generator) -> np.ndarray:
    """So many stray lines, as ink in [0, 1] `(size, size)`."""
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    for _ in range(count):
        start = random.uniform(0, size, 2)
        stop = start + random.uniform(-0.3, 0.3, 2) * size
        draw.line([*start, *stop], fill=int(random.integers(100, 256)), width=max(1, size // 16))
    return np.asarray(canvas, np.float32) / 255


def _draw_cover(left: int, top: int, side: int, share: float, random: np.random.Generator) -> tuple[slice, slice]:
    """The rectangle that hides `share` of the digit's square, from one of its four sides on."""
    near, far = round(side * share), round(side * (1 - share))
    rows, columns = slice(top, top + side), slice(left, left + side)
    match int(random.integers(4)):
        case 0:
            rows = slice(top, top + near)
        case 1:
            rows = slice(top + far, top + side)
        case 2:
            columns = slice(left, left + near)
        case _:
            columns = slice(left + far, left + side)
    return rows, columns


def _draw_waveform(digit: int, drowned: bool, options: TouchtoneOptions, random: np.random.Generator) -> np.ndarray:
    samples = round(options.seconds * SAMPLING_RATE)
    waveform = draw_noise(samples, random)
    snr_db = random.uniform(*(options.drowned_snr_db if drowned else options.tone_snr_db))
    power = 10 ** (snr_db / 10)
    frequencies = draw_frequencies(digit, options.detune, random)
    seconds = random.uniform(*options.tone_seconds)
    add_tone(waveform, frequencies, power, seconds, random)
    for _ in range(int(random.integers(options.max_beeps + 1))):
        add_tone(waveform, random.uniform(600, 1600, 1), power / 2, random.uniform(0.05, 0.2), random)
    return to_peak(waveform, random.uniform(*options.peak_db))


def draw_frequencies(digit: int, detune: float, random: np.random.Generator) -> np.ndarray:
    """The two tones of a digit in hertz, each off by up to the share `detune`."""
    return np.multiply(DTMF_FREQUENCIES[digit], 1 + random.uniform(-detune, detune, 2))


def to_peak(waveform: np.ndarray, peak_db: float) -> np.ndarray:
    """Float32 waveform scaled to a peak level in decibels below full scale."""
    return (waveform * (10 ** (peak_db / 20) / np.abs(waveform).max())).astype(np.float32)


def draw_noise(samples: int, random: np.random.Generator) -> np.ndarray:
    """Noise of power 1 between white and pink."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-random.uniform(0, 0.5))
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std()


def add_tone(
    waveform: np.ndarray, frequencies: np.ndarray, power: float, seconds: float, random: np.random.Generator
) -> None:
    """Adds equally loud sines of `power` in all, from a random onset on, with soft edges."""
    samples = min(round(seconds * SAMPLING_RATE), len(waveform))
    onset = int(random.integers(len(waveform) - samples + 1))
    time = np.arange(samples) / SAMPLING_RATE
    phases = random.uniform(0, 2 * np.pi, len(frequencies))
    tone = np.sin(2 * np.pi * np.multiply.outer(time, frequencies) + phases).sum(-1)
    edge = np.minimum(time, time[::-1]) / TONE_RAMP_SECONDS
    waveform[onset : onset + samples] += np.sqrt(2 * power / len(frequencies)) * tone * edge.clip(0, 1)
