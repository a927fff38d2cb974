"""Decodes each clip once: log-mel spectrogram as float16, frames as JPEG, cached as a `datasets.DatasetDict`."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import DatasetDict, List, Value
from PIL import Image

from .clip_source import is_silent, is_still
from .feature_cache import extract_once
from .media import EmbeddedMedia, PathLike, read_clip, read_image

if TYPE_CHECKING:
    from ..models.cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor
    from .clip_source import ClipSource


__all__ = ["decode_fbank", "decode_frame", "extract_clip", "extract_features", "input_parameters", "same_inputs"]

# Part of every cache key: raise it when what is stored for the same clip changes.
FEATURES_VERSION = 1
JPEG_QUALITY = 95


def extract_features(
    source: ClipSource,
    processor: CavMaeProcessor,
    *,
    num_frames: int = 10,
    max_seconds: float = 10.0,
    num_proc: int | None = None,
) -> DatasetDict:
    """
    Reads every clip of `source` once and stores what the model's inputs are made from.

    Each split is cached in the `datasets` cache directory under a key made of its clips (names, labels, order, size
    and time of change of their files) and the parameters of the processor, so later runs and epochs decode no media.
    Clips that are corrupt or lack sound or picture are left out; silent and still ones stay. All are counted in
    `source.report`, also when the cache is used.

    Args:
        source: [`ClipSource`]; its splits have `video`, or `image` and / or `audio` paths.
        processor: [`CavMaeProcessor`] whose sizes the features are stored in. To serve a teacher and a student with
            different sizes, take the larger one.
        num_frames: evenly spaced frames stored of each video; an image gives one.
        max_seconds: how far a clip is read, in seconds.
        num_proc: number of processes; *optional*, defaults to one for each core at hand and `CLIPS_PER_PROCESS` clips.

    Returns:
        `datasets.DatasetDict` with the columns `clip_id`, `label` (`ClassLabel`), `fbank` (float16 bytes, see
        [`decode_fbank`]) and `frames` (list of JPEG bytes, see [`decode_frame`]). A modality the source has no column
        for is `None`.
    """
    options = {"num_frames": num_frames, "max_seconds": max_seconds}
    columns = {"fbank": Value("binary"), "frames": List(Value("binary"))}
    parameters = [FEATURES_VERSION, input_parameters(processor), options]
    return extract_once(
        source, extract_clip, columns, parameters=parameters, num_proc=num_proc, processor=processor, **options
    )


def decode_fbank(data: bytes, num_mel_bins: int) -> np.ndarray:
    """
    Spectrogram from a `fbank` cell: float32 `(frames, num_mel_bins)`, natural-log mel energies, not normalised.

    Raises:
        ValueError: if the stored spectrogram cannot have `num_mel_bins` bins.
    """
    values = np.frombuffer(data, dtype=np.float16)
    if values.size % num_mel_bins:
        raise ValueError(
            f"a spectrogram of {values.size} values has no {num_mel_bins} mel bins; it was extracted with another "
            "processor. Run extract_features with this one."
        )
    return values.astype(np.float32).reshape(-1, num_mel_bins)


def decode_frame(data: bytes) -> Image.Image:
    """RGB image from one entry of a `frames` cell, JPEG or PNG."""
    image = Image.open(BytesIO(data), formats=("JPEG", "PNG"))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def input_parameters(processor: CavMaeProcessor) -> dict[str, dict[str, Any]]:
    """
    What decides how a processor makes inputs, as plain JSON values; equal for a processor and its saved copy, and for
    that of a model which only hears or sees: clips are stored with both, whoever takes them.
    """
    bookkeeping = ("_type", "processor_class", "auto_map")
    return {
        name: {key: value for key, value in part.to_dict().items() if not key.endswith(bookkeeping)}
        for name, part in (("audio", processor.feature_extractor), ("visual", processor.image_processor))
    }


def same_inputs(first: CavMaeProcessor, second: CavMaeProcessor) -> bool:
    """Whether two processors make the same inputs of every clip, for models that hear and see alike."""
    same_names = first.model_input_names == second.model_input_names
    return same_names and input_parameters(first) == input_parameters(second)


def extract_clip(
    row: dict[str, Any], processor: CavMaeProcessor, num_frames: int = 10, max_seconds: float = 10.0
) -> dict[str, Any]:
    """
    What [`extract_features`] stores of one clip: `fbank`, `frames` and the `problems`, kinds of [`ClipReport`].

    Args:
        row: `video`, or `image` and / or `audio`: paths, or whole files as bytes or `{"bytes": ..., "path": ...}`.
        processor, num_frames, max_seconds: those of [`extract_features`].

    Raises:
        MediaError: if a file cannot be read.
    """
    waveform, frames = _read(row, processor.feature_extractor.sampling_rate, num_frames, max_seconds)
    return {
        "fbank": None if waveform is None else _encode_fbank(waveform, processor.feature_extractor),
        "frames": None if frames is None else [_encode_frame(frame, processor.image_processor) for frame in frames],
        "problems": [{"kind": kind, "reason": ""} for kind in _problems(row, waveform, frames)],
    }


def _read(
    row: dict[str, Any], sampling_rate: int, num_frames: int, max_seconds: float
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Waveform `(samples,)` and frames uint8 `(N, height, width, 3)` of one row; `None` for what it lacks."""
    options = {"sampling_rate": sampling_rate, "num_frames": num_frames, "max_seconds": max_seconds}
    if "video" in row:
        clip = read_clip(_medium(row["video"]), **options)
        return clip.waveform, clip.frames
    waveform = read_clip(_medium(row["audio"]), read_video=False, **options).waveform if row.get("audio") else None
    frames = read_image(_medium(row["image"]))[None] if row.get("image") else None
    return waveform, frames


def _medium(cell: PathLike | bytes | dict[str, Any]) -> PathLike | EmbeddedMedia:
    if isinstance(cell, bytes):
        return EmbeddedMedia("embedded file", cell)
    return EmbeddedMedia(cell["path"], cell["bytes"]) if isinstance(cell, dict) else cell


def _problems(row: dict[str, Any], waveform: np.ndarray | None, frames: np.ndarray | None) -> Iterator[str]:
    """Kinds of [`ClipReport`] that apply; a modality without a column is not expected, its absence no problem."""
    if waveform is not None:
        if is_silent(waveform):
            yield "silent"
    elif "video" in row or "audio" in row:
        yield "soundless"
    if frames is not None:
        if is_still(frames):
            yield "still"
    elif "video" in row or "image" in row:
        yield "pictureless"


def _encode_fbank(waveform: np.ndarray, feature_extractor: CavMaeFeatureExtractor) -> bytes:
    fbank = feature_extractor.extract_fbank(waveform, feature_extractor.sampling_rate)
    return fbank.astype(np.float16).tobytes()


def _encode_frame(frame: np.ndarray, image_processor: CavMaeImageProcessor) -> bytes:
    buffer = BytesIO()
    image_processor.resize_and_crop(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
