"""Decodes each clip once: log-mel spectrogram as float16, frames as JPEG, cached as a `datasets.DatasetDict`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from PIL import Image
from transformers.utils import logging

from .clip_source import is_silent, is_still
from .media import MediaError, read_clip, read_image
from .processes import fork_without_garbage

if TYPE_CHECKING:
    from ..models.cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor
    from .clip_source import ClipSource


__all__ = ["decode_fbank", "decode_frame", "extract_features", "input_parameters"]

logger = logging.get_logger(__name__)

# Part of every cache key: raise it when what is stored for the same clip changes.
FEATURES_VERSION = 1
JPEG_QUALITY = 95
UNUSABLE = frozenset({"corrupt", "soundless", "pictureless"})
MEDIA_COLUMNS = ("video", "image", "audio")
# a further process only pays off for this many clips
CLIPS_PER_PROCESS = 64
# rows written at once; 262 kB a row at the official size
WRITER_BATCH_SIZE = 128


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
    splits = {}
    for split, clips in source.splits.items():
        extracted = _extract_split(clips, processor, split, num_proc, options)
        splits[split] = _usable(extracted, split, source)
    return DatasetDict(splits)


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
    """RGB image from one entry of a `frames` cell."""
    image = Image.open(BytesIO(data), formats=("JPEG",))
    image.load()
    return image


def input_parameters(processor: CavMaeProcessor) -> dict[str, dict[str, Any]]:
    """What decides the inputs a processor makes, as plain JSON values; equal for a processor and its saved copy."""
    bookkeeping = ("_type", "processor_class", "auto_map")
    return {
        name: {key: value for key, value in part.to_dict().items() if not key.endswith(bookkeeping)}
        for name, part in (("audio", processor.feature_extractor), ("visual", processor.image_processor))
    }


def _cache_key(clips: Dataset, processor: CavMaeProcessor, options: Mapping[str, Any]) -> str:
    # Not the manifest hash: it knows neither the order of the clips nor the ids of their labels, which are stored.
    rows = [clips["clip_id"][:], clips["label"][:], clips.features["label"].names]
    files = {name: [_state_of(path) for path in clips[name][:]] for name in _media_columns(clips)}
    parts = [FEATURES_VERSION, rows, files, input_parameters(processor), dict(options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _state_of(path: str | None) -> tuple[int, int] | None:
    """Size and time of change of a file: what tells another recording of the same name and length."""
    if path is None:
        return None
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _media_columns(clips: Dataset) -> list[str]:
    return [column for column in MEDIA_COLUMNS if column in clips.column_names]


def _extract_split(
    clips: Dataset,
    processor: CavMaeProcessor,
    split: str,
    num_proc: int | None,
    options: Mapping[str, Any],
) -> Dataset:
    media = _media_columns(clips)
    key = _cache_key(clips, processor, options)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_emktd_features" / key
    folder.mkdir(parents=True, exist_ok=True)
    with fork_without_garbage():
        return clips.select_columns(["clip_id", "label", *media]).map(
            _extract_clip,
            with_rank=True,
            remove_columns=media,
            features=_features(clips),
            fn_kwargs={"processor": processor, **options},
            num_proc=_processes(len(clips), num_proc),
            writer_batch_size=WRITER_BATCH_SIZE,
            new_fingerprint=f"{key}-{split}",
            cache_file_name=str(folder / f"{split}.arrow"),
            desc=f"Features ({split})",
        )


def _features(clips: Dataset) -> Features:
    return Features(
        {
            "clip_id": Value("string"),
            "label": clips.features["label"],
            "fbank": Value("binary"),
            "frames": List(Value("binary")),
            "problems": List({"kind": Value("string"), "reason": Value("string")}),
        }
    )


def _processes(num_clips: int, num_proc: int | None) -> int | None:
    if num_proc is None:
        num_proc = min(os.cpu_count() or 1, num_clips // CLIPS_PER_PROCESS)
    return num_proc if num_proc > 1 else None


def _extract_clip(
    row: dict[str, Any], rank: int | None, processor: CavMaeProcessor, num_frames: int, max_seconds: float
) -> dict[str, Any]:
    if rank is not None:
        # a forked process must not enter the parent's thread pool, and there is one process per core already
        torch.set_num_threads(1)
    try:
        waveform, frames = _read(row, processor.feature_extractor.sampling_rate, num_frames, max_seconds)
    except MediaError as error:
        return {"fbank": None, "frames": None, "problems": [{"kind": "corrupt", "reason": str(error)}]}
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
        clip = read_clip(row["video"], **options)
        return clip.waveform, clip.frames
    waveform = read_clip(row["audio"], read_video=False, **options).waveform if row.get("audio") else None
    frames = read_image(row["image"])[None] if row.get("image") else None
    return waveform, frames


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


def _usable(extracted: Dataset, split: str, source: ClipSource) -> Dataset:
    """Counts what the extraction found and drops the clips no model can use."""
    keep = []
    for index, (clip_id, problems) in enumerate(zip(extracted["clip_id"], extracted["problems"], strict=True)):
        for problem in problems:
            source.report.add(split, problem["kind"], clip_id, problem["reason"])
        if not any(problem["kind"] in UNUSABLE for problem in problems):
            keep.append(index)
    extracted = extracted.remove_columns("problems")
    if len(keep) == len(extracted):
        return extracted
    logger.warning(f"{len(extracted) - len(keep)} of {len(extracted)} {split} clips are unusable; see the report.")
    return extracted.select(keep)
