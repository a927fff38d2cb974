"""A clip as it was read, the file that it came from, and what may be wrong with one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PathLike = str | os.PathLike


class MediaError(ValueError):
    """A media file that cannot be read.

    Args:
        path (`str` or `os.PathLike`): The file.
        reason (`str`): What is wrong with it.
    """

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        # Exceptions are otherwise rebuilt from their message alone, which fails on the way back from a worker process.
        return type(self), (self.path, self.reason)


class MediaNotFoundError(MediaError):
    """A media file that is not there, or no longer."""


@dataclass(frozen=True)
class EmbeddedMedia:
    """A media file that is held in memory.

    Args:
        name (`str`): For messages.
        content (`bytes`): All of it.
    """

    name: str
    content: bytes


@dataclass
class Clip:
    """What was read from one media file. A stream that the file does not have is `None`.

    Args:
        path (`Path`): The file.
        waveform (`np.ndarray` of shape `(samples,)`, float32, *optional*): The first channel of the sound, or
            the mean of all.
        sampling_rate (`int`, *optional*): Samples per second of `waveform`.
        source_sampling_rate (`int`, *optional*): Samples per second in the file; differs if the sound was resampled.
        frames (`np.ndarray` of shape `(N, height, width, 3)`, uint8 RGB, *optional*): The chosen frames, upright.
        frame_times_seconds (`np.ndarray` of shape `(N,)`, float64, *optional*): When each of `frames` comes on screen,
            counted from the start of the file.
        duration_seconds (`float`, *optional*): As the header states it, or as measured where the header is silent and
            the file was read to its end; `None` if neither is known.
        decode_errors (`int`): Pieces that could not be decoded and were left out, as a player does, or that held
            samples which are no sound (not a number, or 60 dB over full scale) and were silenced.
    """

    path: Path
    waveform: np.ndarray | None = None
    sampling_rate: int | None = None
    source_sampling_rate: int | None = None
    frames: np.ndarray | None = None
    frame_times_seconds: np.ndarray | None = None
    duration_seconds: float | None = None
    decode_errors: int = 0
