"""What a person may hand to a pipeline, as something that is read window by window."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import httpx
from PIL import Image, ImageOps

from ..data.clip_windows import read_duration, read_windows
from ..data.media import Clip, EmbeddedMedia, MediaError, read_image, resample

File = Path | EmbeddedMedia

WEB_ADDRESSES = ("http://", "https://")
DOWNLOAD_SECONDS = 60.0
ACCEPTED = (
    "a path, an http(s) address, bytes, a file opened for reading, or a dict with 'video', with 'image' and / or "
    "'audio', or with 'bytes' and 'path' as `datasets` has them"
)


@dataclass(frozen=True)
class Media:
    """
    One input of a pipeline: a file with both senses, or sound and picture apart.

    Args:
        name (`str`):
            For messages.
        video (`Path` or [`EmbeddedMedia`], *optional*):
            A file with sound, pictures or both.
        audio (`Path` or [`EmbeddedMedia`], *optional*):
            A file of which only the sound is taken.
        waveform (`np.ndarray` of shape `(samples,)`, float32, *optional*):
            Sound that was decoded already.
        sampling_rate (`int`, *optional*):
            Samples per second of `waveform`.
        image (`np.ndarray` of shape `(height, width, 3)`, uint8 RGB, *optional*):
            A picture that is shown all the time.
    """

    name: str
    video: File | None = None
    audio: File | None = None
    waveform: np.ndarray | None = None
    sampling_rate: int | None = None
    image: np.ndarray | None = None

    def duration(self) -> float:
        """Seconds; none of a picture alone."""
        if self.waveform is not None:
            return len(self.waveform) / self.sampling_rate
        file = self.audio if self.video is None else self.video
        return 0.0 if file is None else read_duration(file)

    def windows(
        self, starts: Sequence[float], window_seconds: float, *, sampling_rate: int, **options: Any
    ) -> Iterator[Clip]:
        """The windows that begin at `starts`; arguments, results and errors as of
        [`~data.clip_windows.read_windows`]."""
        if self.video is not None:
            yield from read_windows(self.video, starts, window_seconds, sampling_rate=sampling_rate, **options)
            return
        frames = None if self.image is None else self.image[None]
        for clip in self._sounds(starts, window_seconds, sampling_rate, **options):
            yield replace(clip, frames=frames)

    def _sounds(
        self, starts: Sequence[float], window_seconds: float, sampling_rate: int, **options: Any
    ) -> Iterator[Clip]:
        if self.audio is not None:
            options = {**options, "read_video": False}
            yield from read_windows(self.audio, starts, window_seconds, sampling_rate=sampling_rate, **options)
        elif self.waveform is not None:
            waveform = resample(self.waveform, self.sampling_rate, sampling_rate)
            for start in starts:
                first, last = (round(time * sampling_rate) for time in (start, start + window_seconds))
                yield Clip(Path(self.name), waveform=waveform[first:last], sampling_rate=sampling_rate)
        else:
            yield from (Clip(Path(self.name)) for _ in starts)


@contextmanager
def open_media(item: Any) -> Iterator[Media]:
    """
    What a pipeline was given, ready to be read; what had to be written to disk is removed afterwards.

    Args:
        item:
            A path, an http(s) address, bytes, a file opened for reading, or a dict: with `video`, any of these; with
            `image` (these, a Pillow image or uint8 `(height, width, 3)`) and / or `audio` (these, or float
            `(samples,)` with its `sampling_rate` beside it or in a dict of `array` and `sampling_rate`); or with
            `bytes` and `path`, as `datasets` has undecoded `Video` and `Audio` columns. Decoders that `datasets` makes
            of such columns are taken as the file they decode. Other keys of a dict, such as a label, do not matter.

    Raises:
        [`MediaError`]: a file cannot be downloaded or read.
        TypeError: for anything else.
        ValueError: a waveform is not mono, not floating point, not finite or has no rate.
    """
    with tempfile.TemporaryDirectory(prefix="hf_emktd_") as folder:
        name = _name(item)
        try:
            yield _media(item, name, Path(folder))
        except MediaError as error:
            if Path(folder) in error.path.parents:
                raise MediaError(name, error.reason) from error
            raise


def _media(item: Any, name: str, folder: Path) -> Media:
    if not isinstance(item, Mapping):
        return Media(name, video=_file(item, folder))
    if item.get("video") is not None:
        return Media(name, video=_file(item["video"], folder))
    if item.get("image") is not None or item.get("audio") is not None:
        image = None if item.get("image") is None else _image(item["image"], folder)
        return Media(name, image=image, **_sound(item, folder))
    if item.get("bytes") is not None or item.get("path") is not None:
        return Media(name, video=_file(item, folder))
    raise TypeError(f"a dict with {', '.join(map(repr, item)) or 'nothing in it'} cannot be read; give {ACCEPTED}.")


def _sound(item: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    audio = item.get("audio")
    if audio is None:
        return {}
    if isinstance(audio, Mapping) and "array" in audio:
        return _decoded(audio["array"], audio.get("sampling_rate"))
    if isinstance(audio, np.ndarray):
        return _decoded(audio, item.get("sampling_rate"))
    return {"audio": _file(audio, folder)}


def _decoded(waveform: Any, sampling_rate: int | None) -> dict[str, Any]:
    samples = np.asarray(waveform)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(
            f"a waveform must be mono floating-point samples of shape (samples,), full scale at ±1, got "
            f"{samples.dtype} {samples.shape}; pick a channel, and divide 16-bit PCM by 32768."
        )
    if sampling_rate is None:
        raise ValueError("a waveform needs its sampling_rate in hertz: {'audio': samples, 'sampling_rate': 16000}.")
    if not np.isfinite(samples).all():
        raise ValueError("a waveform must be of finite samples, full scale at ±1; some are NaN or infinite.")
    return {"waveform": samples.astype(np.float32), "sampling_rate": int(sampling_rate)}


def _image(image: Any, folder: Path) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return image if isinstance(image, np.ndarray) else read_image(_file(image, folder))


def _file(item: Any, folder: Path) -> File:
    item = getattr(item, "_hf_encoded", item)  # what a decoder of `datasets` decodes
    if isinstance(item, Mapping):
        if item.get("bytes") is not None:
            return EmbeddedMedia(_name(item), item["bytes"])
        item = item.get("path")
    if isinstance(item, str) and item.startswith(WEB_ADDRESSES):
        return _download(item, folder)
    if isinstance(item, str | os.PathLike):
        return Path(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return EmbeddedMedia(_name(item), bytes(item))
    if hasattr(item, "read"):
        path = _new_file(folder)
        with path.open("wb") as file:
            shutil.copyfileobj(item, file)
        return path
    raise TypeError(f"{type(item).__name__} cannot be read; give {ACCEPTED}.")


def _download(address: str, folder: Path) -> Path:
    path = _new_file(folder)
    try:
        with (
            httpx.stream("GET", address, follow_redirects=True, timeout=DOWNLOAD_SECONDS) as response,
            path.open("wb") as file,
        ):
            response.raise_for_status()
            for block in response.iter_bytes():
                file.write(block)
    except httpx.HTTPError as error:
        raise MediaError(path, f"could not be downloaded ({type(error).__name__}: {error})") from error
    return path


def _new_file(folder: Path) -> Path:
    return folder / str(len(list(folder.iterdir())))


def _name(item: Any) -> str:
    item = getattr(item, "_hf_encoded", item)
    if isinstance(item, Mapping):
        parts = [item[key] for key in ("video", "audio", "image", "path") if item.get(key) is not None]
        return _name(parts[0]) if parts else "<bytes>"
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return "<bytes>"
    return str(getattr(item, "name", f"<{type(item).__name__}>"))
