"""Reads each scene once: VGGish spectrogram as float16, pictures and masks as they are stored on disk."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import DatasetDict, List, Value
from PIL import Image

from .clip_source import is_silent, is_still
from .feature_cache import extract_once
from .features import decode_frame, input_parameters
from .media import PICTURE_ERRORS, MediaError, as_media_error, read_clip

if TYPE_CHECKING:
    from ..models.avsegformer import AvSegFormerProcessor
    from .clip_source import ClipSource


__all__ = ["IGNORE_INDEX", "decode_log_mel", "decode_mask", "extract_scene_features"]

# label of every pixel of a frame without mask
IGNORE_INDEX = -100
# Part of every cache key: raise it when what is stored for the same scene changes.
SCENE_FEATURES_VERSION = 1
# shape of one VGGish example: frames of 10 ms, mel bands
EXAMPLE_SHAPE = (96, 64)
# The official extraction (`preprocess_s4.py`) takes 16 frames a second, keeps the last of them and resizes it to this.
FRAME_WITHIN_SECOND = 15 / 16
FRAME_SIZE = 224


def extract_scene_features(
    source: ClipSource,
    processor: AvSegFormerProcessor,
    *,
    frame_size: int | None = None,
    num_proc: int | None = None,
) -> DatasetDict:
    """
    Reads every scene of `source` once and stores what the model's inputs are made from.

    Pictures and masks keep their bytes, so one cache serves models of any image size; frames that must be decoded
    from a video are those of 15/16 s, 1 15/16 s, ..., stored as PNG of 224 squared, as the official script does. Each
    split is cached as by [`~data.features.extract_features`]. Scenes that are corrupt or lack sound or picture are
    left out; silent and still ones stay. All are counted in `source.report`.

    Args:
        source: [`ClipSource`] with the columns of [`AVSBench`].
        processor: [`AvSegFormerProcessor`] whose sound the features are stored for.
        frame_size: *optional*, side in pixels that pictures and masks are resized to before they are stored, as the
            processor of a model of that `image_size` would do it at every view. A view then costs what it costs to
            decode a picture of that size: 3 ms for 64 squared, where 224 squared takes 18.
        num_proc: number of processes; *optional*, defaults to one for each core at hand and 64 scenes.

    Returns:
        `datasets.DatasetDict` with the columns `clip_id`, `label` (`ClassLabel`), `log_mel` (float16 bytes, see
        [`decode_log_mel`]), `frames` (list of PNG or JPEG bytes, see [`~data.features.decode_frame`]) and `masks` (by
        frame, PNG bytes, see [`decode_mask`], or `None` where the frame is not labelled).
    """
    columns = {"log_mel": Value("binary"), "frames": List(Value("binary")), "masks": List(Value("binary"))}
    audio = {name: value for name, value in input_parameters(processor)["audio"].items() if name != "num_frames"}
    return extract_once(
        source,
        _extract_scene,
        columns,
        parameters=[SCENE_FEATURES_VERSION, audio, *([] if frame_size is None else [frame_size])],
        num_proc=num_proc,
        processor=processor,
        frame_size=frame_size,
    )


def decode_log_mel(data: bytes) -> np.ndarray:
    """VGGish examples from a `log_mel` cell: float32 `(n, 96, 64)`, logarithm of mel magnitude plus 0.01."""
    return np.frombuffer(data, dtype=np.float16).astype(np.float32).reshape(-1, *EXAMPLE_SHAPE)


def decode_mask(data: bytes) -> np.ndarray:
    """
    Mask from one entry of a `masks` cell: uint8 `(height, width)`, 1 where something sounds.

    In a mask of one bit white sounds, of a palette (mode P) any entry but the first, of grey levels (L) 128 and more,
    of colours any but black: the class colours of AVSBench's semantic subset.

    Raises:
        ValueError: if it is no picture, of another kind, or grey with nothing but levels below 128 (class ids).
    """
    try:
        mask = Image.open(BytesIO(data), formats=("PNG",))
        pixels = np.asarray(mask)
    except PICTURE_ERRORS as error:
        raise ValueError(f"is not a readable mask ({type(error).__name__}: {error})") from error
    match mask.mode:
        case "1" | "P":
            sounding = pixels > 0
        case "L":
            if 0 < pixels.max(initial=0) < 128:
                raise ValueError(f"is a grey mask of levels up to {pixels.max()}, expected 0 and 255; class ids?")
            sounding = pixels >= 128
        case "RGB" | "RGBA":
            sounding = pixels[..., :3].any(-1)
        case _:
            raise ValueError(f"is a mask of Pillow's mode {mask.mode}, expected 1, P, L, RGB or RGBA")
    return sounding.astype(np.uint8)


def _extract_scene(row: dict[str, Any], processor: AvSegFormerProcessor, frame_size: int | None) -> dict[str, Any]:
    extractor = processor.feature_extractor
    seconds = len(row["masks"])
    waveform = _read_sound(row, extractor.sampling_rate, seconds)
    pictures = [_read_bytes(path) for path in row["frames"]] or _decode_video(row["video"], seconds)
    log_mel = None if waveform is None else extractor.log_mel(waveform, extractor.sampling_rate)
    masks = [None if path is None else _read_mask(path) for path in row["masks"]]
    problems = _problems(waveform, pictures, row["frames"])
    if frame_size is not None:
        pictures = pictures and [_resized_frame(data, frame_size) for data in pictures]
        masks = [data and _resized_mask(data, frame_size) for data in masks]
    return {
        "log_mel": None if log_mel is None else log_mel.astype(np.float16).tobytes(),
        "frames": pictures,
        "masks": masks,
        "problems": [{"kind": kind, "reason": ""} for kind in problems],
    }


def _read_sound(row: dict[str, Any], sampling_rate: int, seconds: int) -> np.ndarray | None:
    """Mean of the channels, float32 `(samples,)`, or `None` where there is no sound."""
    path = row["audio"] or row["video"]
    if path is None:
        return None
    options = {"sampling_rate": sampling_rate, "max_seconds": float(seconds)}
    return read_clip(path, read_video=False, mix_channels=True, **options).waveform


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise as_media_error(Path(path), error) from error


def _read_mask(path: str) -> bytes:
    data = _read_bytes(path)
    try:
        decode_mask(data)
    except ValueError as error:
        raise MediaError(path, str(error)) from error
    return data


def _decode_video(path: str, seconds: int) -> list[bytes] | None:
    times = [second + FRAME_WITHIN_SECOND for second in range(seconds)]
    frames = read_clip(path, read_audio=False, frame_times_seconds=times, max_seconds=float(seconds)).frames
    return None if frames is None else [_encode_frame(frame) for frame in frames]


def _encode_frame(frame: np.ndarray) -> bytes:
    # OpenCV's resize, which the official script uses, does not smooth when it shrinks; neither does this one.
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(pixels, (FRAME_SIZE, FRAME_SIZE), mode="bilinear", align_corners=False)
    return _png(Image.fromarray(resized[0].round().byte().permute(1, 2, 0).numpy()))


def _resized_frame(data: bytes, size: int) -> bytes:
    return _png(decode_frame(data).resize((size, size), Image.Resampling.BILINEAR))


def _resized_mask(data: bytes, size: int) -> bytes:
    return _png(Image.fromarray(decode_mask(data) > 0).resize((size, size), Image.Resampling.NEAREST))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _problems(waveform: np.ndarray | None, pictures: list[bytes] | None, paths: list[str]) -> list[str]:
    """Kinds of [`ClipReport`] that apply to a scene."""
    kinds = []
    if waveform is None:
        kinds.append("soundless")
    elif is_silent(waveform):
        kinds.append("silent")
    if pictures is None:
        kinds.append("pictureless")
    elif is_still(_decode_all(pictures, paths)):
        kinds.append("still")
    return kinds


def _decode_all(pictures: list[bytes], paths: list[str]) -> list[np.ndarray]:
    """All pictures, uint8 RGB; reading them here finds a damaged one before training does."""
    frames = []
    for index, data in enumerate(pictures):
        try:
            frames.append(np.asarray(decode_frame(data)))
        except PICTURE_ERRORS as error:
            raise MediaError(paths[index], f"is not a readable picture ({type(error).__name__}: {error})") from error
    return frames
