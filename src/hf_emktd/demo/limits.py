"""What an upload may be: how many bytes, how many seconds, how large a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import av

from ..data.clip_windows import read_duration
from ..data.media import READ_ERRORS, MediaError
from ..distillation.entropy_monitor import SEGMENTATION
from ..hub.mask_pictures import FRAMES_PER_SECOND
from ..hub.prediction import OFFICIAL_FRAMES

MEGABYTE = 10**6
# Pictures are held decoded, three bytes a pixel: 2 GiB of them.
MAX_HELD_PIXELS = 2**31 // 3


@dataclass(frozen=True)
class UploadLimits:
    """
    What a stranger's file may be.

    Args:
        max_file_mb (`float`, *optional*, defaults to 50.0):
            Megabytes (10^6 bytes).
        max_seconds (`float`, *optional*, defaults to 30.0):
            How long it may last.
        max_upload_seconds (`float`, *optional*, defaults to 120.0):
            How long it may take to come.

    Raises:
        ValueError: a limit is not positive and finite.
    """

    max_file_mb: float = 50.0
    max_seconds: float = 30.0
    max_upload_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_seconds", "max_upload_seconds"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}.")

    @property
    def max_file_bytes(self) -> int:
        return math.floor(self.max_file_mb * MEGABYTE)

    def check(self, path: str | os.PathLike[str], task: str) -> float:
        """
        Refuses a file from its size and headers, before any of it is decoded.

        Args:
            path (`str` or `os.PathLike`): The file.
            task (`str`): Masks hold ten pictures for each second of it, events ten at once.

        Returns:
            `float`: its duration in seconds.

        Raises:
            [`MediaError`]: it is too large, too long, or cannot be read.
        """
        path = Path(path)
        if not path.is_file():
            raise MediaError(path, "is no longer there; choose it again")
        size = path.stat().st_size
        if size > self.max_file_bytes:
            raise MediaError(
                path, f"is too large: {size / MEGABYTE:.1f} MB, at most {self.max_file_mb:g} MB are taken"
            )
        duration = read_duration(path)
        if duration > self.max_seconds:
            raise MediaError(path, f"is too long: {duration:.1f} s, at most {self.max_seconds:g} s are taken")
        width, height = _largest_picture(path)
        held = math.ceil(FRAMES_PER_SECOND * duration) if task == SEGMENTATION else OFFICIAL_FRAMES
        if width * height * held > MAX_HELD_PIXELS:
            raise MediaError(path, f"has too large a picture: {width} x {height} for {duration:.1f} s; scale it down")
        return duration


def _largest_picture(path: Path) -> tuple[int, int]:
    try:
        with av.open(os.fspath(path)) as container:
            sizes = [(stream.width or 0, stream.height or 0) for stream in container.streams.video]
    except READ_ERRORS as error:
        raise MediaError(path, f"cannot be read ({type(error).__name__}: {error})") from error
    return max(sizes, key=math.prod, default=(0, 0))
