"""Reads sound and pictures from one media file (PyAV and Pillow; no system packages needed)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .clip import Clip, EmbeddedMedia, MediaError, PathLike
from .containers import READ_ERRORS, as_media_error, checked_path, header_duration, open_container
from .pictures import read_pictures
from .sound import read_sound
from .streams import check_size

# What Pillow raises for a picture it cannot read.
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
# Of pictures by Pillow, which would start a PostScript interpreter for an EPS file.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def read_clip(
    path: PathLike | EmbeddedMedia,
    *,
    sampling_rate: int | None = 16000,
    num_frames: int = 10,
    frame_times_seconds: Sequence[float] | None = None,
    max_seconds: float | None = 10.0,
    read_audio: bool = True,
    read_video: bool = True,
    mix_channels: bool = False,
) -> Clip:
    """Reads the best sound and the best picture stream of a media file, no further than `max_seconds`.

    The sound is the **first channel**, as in the official CAV-MAE extraction (`src/preprocess/extract_audio.py`:
    ffmpeg to 16 kHz, then sox `remix 1`), without that extraction's rounding to 16 bits; holes in it are silence. The
    frames are those on screen at `i * D / num_frames`, `D` being the length of the picture within `max_seconds`. At a
    constant frame rate that is frame `int(i * N / num_frames)` with `N = min(frame count, 10 * rate)`, the index of
    `src/preprocess/extract_video_frame.py`, and it stays right at a variable one. Asked for more frames than there
    are, frames repeat. Cover art is not a picture stream.

    Args:
        path (`str`, `os.PathLike` or [`EmbeddedMedia`]): mp4, webm, mkv, avi, wav or any other of `CONTAINERS`.
        sampling_rate (`int`, *optional*, defaults to 16000): Samples per second to resample to; `None` keeps the
            file's own. The result states both.
        num_frames (`int`, *optional*, defaults to 10): Number of evenly spaced frames.
        frame_times_seconds (sequence of `float`, *optional*): Take the frames on screen at these times instead, in any
            order, within `max_seconds`; after the end the last frame stays on screen.
        max_seconds (`float`, *optional*, defaults to 10.0): Where to stop reading; `None` reads to the end.
        read_audio (`bool`, *optional*, defaults to `True`): Whether to read the sound.
        read_video (`bool`, *optional*, defaults to `True`): Whether to read the frames.
        mix_channels (`bool`, *optional*, defaults to `False`): Take the mean of all channels, as the official VGGish
            and AVSBench code does, instead of the first.

    Returns:
        [`Clip`]: `waveform` or `frames` is `None` where the file has no such stream, or not one sample of it at
            `sampling_rate`.

    Raises:
        [`MediaError`]: The file is missing ([`MediaNotFoundError`]) or broken, of no container that is read here,
            nothing of a stream that it declares can be decoded, or its pictures have more than 8192 x 4320 pixels.
        `ValueError`: An argument is out of range.
    """
    _check_arguments(sampling_rate, num_frames, frame_times_seconds, max_seconds)
    medium = path if isinstance(path, EmbeddedMedia) else Path(path)
    path = checked_path(medium)
    clip = Clip(path)
    limit = math.inf if max_seconds is None else max_seconds
    try:
        with open_container(medium) as container:
            clip.duration_seconds = header_duration(container, path)
            if read_audio:
                read_sound(clip, container, sampling_rate, limit, mix_channels)
        if read_video:
            read_pictures(clip, medium, num_frames, frame_times_seconds, limit)
    except MediaError:
        raise
    except READ_ERRORS as error:
        raise as_media_error(path, error) from error
    return clip


def read_image(path: PathLike | EmbeddedMedia) -> np.ndarray:
    """Reads a picture as uint8 RGB of shape `(height, width, 3)`, turned upright by its EXIF orientation.

    Raises:
        [`MediaError`]: The file is missing ([`MediaNotFoundError`]) or none of `PICTURE_FORMATS`.
    """
    medium = path if isinstance(path, EmbeddedMedia) else Path(path)
    path = checked_path(medium)
    try:
        file = BytesIO(medium.content) if isinstance(medium, EmbeddedMedia) else path
        with Image.open(file, formats=PICTURE_FORMATS) as image:
            check_size(path, *image.size)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except MediaError:
        raise
    except PICTURE_ERRORS as error:
        raise MediaError(path, f"is not a readable picture ({type(error).__name__}: {error})") from error


def _check_arguments(
    sampling_rate: int | None, num_frames: int, times: Sequence[float] | None, max_seconds: float | None
) -> None:
    if sampling_rate is not None and sampling_rate <= 0:
        raise ValueError(f"sampling_rate must be positive, or None for the file's own, got {sampling_rate}")
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}; for no frames set read_video=False")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, or None to read to the end, got {max_seconds}")
    if times is None:
        return
    limit = math.inf if max_seconds is None else max_seconds
    if len(times) == 0 or not all(0 <= time <= limit and math.isfinite(time) for time in times):
        raise ValueError(
            f"frame_times_seconds must be times between 0 and max_seconds = {max_seconds}, got {list(times)}; "
            "raise max_seconds for later ones, set read_video=False for none"
        )
