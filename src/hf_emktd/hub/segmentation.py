"""What a saved model marks in a media file: for each second, the pixels of what sounds."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..data.clip_source import is_silent
from ..data.media import Clip, MediaError, read_clip
from .prediction import check_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

# AVSBench takes 16 pictures a second and keeps the last of each second.
FRAME_WITHIN_SECOND = 15 / 16
THRESHOLD = 0.5


@dataclass(frozen=True)
class ClipSegmentation:
    """What sounds in one clip, second by second.

    Args:
        path (`Path`):
            The file.
        frames (`np.ndarray` of shape `(frames, height, width, 3)`, uint8 RGB):
            The pictures that the model saw, at the clip's own size.
        probabilities (`np.ndarray` of shape `(frames, height, width)`, float32):
            That a pixel belongs to something that sounds.
        times_seconds (`np.ndarray` of shape `(frames,)`, float64):
            When each of `frames` is on screen: 15/16 s, 1 15/16 s, ...
        duration_seconds (`float`):
            How much of the file was looked at.
        waveform (`np.ndarray` of shape `(samples,)`, float32, *optional*):
            The sound, where the file has any.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Samples per second of `waveform`.
        notes (`list[str]`):
            What the clip lacks, such as `"no sound: silence was given"`.
    """

    path: Path
    frames: np.ndarray
    probabilities: np.ndarray
    times_seconds: np.ndarray
    duration_seconds: float
    waveform: np.ndarray | None = None
    sampling_rate: int = 16000
    notes: list[str] = field(default_factory=list)

    @property
    def masks(self) -> np.ndarray:
        """Whether a pixel sounds, bool `(frames, height, width)`: its probability is above one half."""
        return self.probabilities > THRESHOLD

    @property
    def shares(self) -> list[float]:
        """For each frame the share of the picture that sounds."""
        return self.masks.mean(axis=(1, 2)).tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold: of each frame the time, the share that sounds, the highest probability."""
        peaks = self.probabilities.max(axis=(1, 2)).tolist()
        seconds = [
            {"time_seconds": time, "mask_share": share, "peak_probability": peak}
            for time, share, peak in zip(self.times_seconds.tolist(), self.shares, peaks, strict=True)
        ]
        return {"path": str(self.path), "notes": self.notes, "seconds": seconds}

    def line(self) -> str:
        """One line of text: the share of the picture that sounds, in %, second by second."""
        shares = "  ".join(f"{100 * share:.1f}" for share in self.shares)
        return f"{self.path}{''.join(f' ({note})' for note in self.notes)}: {shares} %"


def segment_clip(
    model: PreTrainedModel, processor: ProcessorMixin, path: str | os.PathLike[str], *, seconds: int = 10
) -> ClipSegmentation:
    """Runs a model on a media file: marks what sounds in one frame of each second.

    The frames are those of AVSBench's extraction, the last of 16 a second; frame `i` goes with the `i`-th 0.96 s of
    the sound. A clip of less than a second is looked at as it ends.

    Args:
        model (`PreTrainedModel`):
            A segmentation model that keeps the output contract, in evaluation mode, on any device.
        processor (`ProcessorMixin`):
            Its processor.
        path (`str` or `os.PathLike`):
            A clip in any container.
        seconds (`int`, *optional*, defaults to 10):
            How much of it is read at most.

    Returns:
        [`ClipSegmentation`]: a clip without sound, or with a silent sound stream, is answered for silence; its notes
        say so.

    Raises:
        MediaError: the file cannot be read, or has no picture.
        ValueError: `seconds` is below 1.

    Example:

    ```python
    >>> import hf_emktd
    >>> from hf_emktd.hub import segment_clip, write_overlay
    >>> from transformers import AutoModel, AutoProcessor

    >>> model, processor = AutoModel.from_pretrained("runs/student"), AutoProcessor.from_pretrained("runs/student")
    >>> segmentation = segment_clip(model, processor, "clip.mp4")
    >>> write_overlay(segmentation, "overlay.mp4")
    ```"""
    if seconds < 1:
        raise ValueError(f"seconds must be at least 1, got {seconds}.")
    rate = processor.feature_extractor.sampling_rate
    times = [second + FRAME_WITHIN_SECOND for second in range(seconds)]
    clip = read_clip(path, sampling_rate=rate, frame_times_seconds=times, max_seconds=seconds, mix_channels=True)
    if clip.frames is None:
        raise MediaError(clip.path, "has no picture, and only pictures can be segmented")
    duration = float(seconds if clip.duration_seconds is None else min(clip.duration_seconds, seconds))
    count = frames_within(duration)
    input_values, notes = sound_inputs(clip, processor, count)
    pixel_values = processor(images=clip.frames[:count], return_tensors="pt")["pixel_values"]
    probabilities = _probabilities(model, input_values, pixel_values, clip)
    times = np.array(times[:count])
    return ClipSegmentation(clip.path, clip.frames[:count], probabilities, times, duration, clip.waveform, rate, notes)


def frames_within(duration: float) -> int:
    """Seconds of a clip that have a frame: later times show the last one again. Of less than a second one is kept."""
    return max(1, math.floor(duration + 1 - FRAME_WITHIN_SECOND))


def sound_inputs(clip: Clip, processor: ProcessorMixin, count: int) -> tuple[Tensor, list[str]]:
    """`input_values` `(1, count, 96, 64)` of the clip's sound, or of silence where it has none, and notes of that."""
    if clip.waveform is not None and not is_silent(clip.waveform):
        sound = processor(audio=clip.waveform, sampling_rate=clip.sampling_rate, num_frames=count, return_tensors="pt")
        return sound["input_values"], []
    silent = "" if clip.waveform is None else ", the stream is silent"
    silence = torch.from_numpy(processor.feature_extractor.silence(count))
    return silence[None], [f"no sound{silent}: silence was given"]


def probabilities_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Sigmoids of `(batch, frames, rows, columns)` at another size, `(height, width)`; float32."""
    return interpolate(logits.float().sigmoid(), size=size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def _probabilities(model: PreTrainedModel, input_values: Tensor, pixel_values: Tensor, clip: Clip) -> np.ndarray:
    """Sigmoids at the clip's own size, from no more frames at once than the model was trained with."""
    parts = zip(
        *(values.split(model.config.num_frames, dim=1) for values in (input_values, pixel_values)), strict=True
    )
    maps = []
    for sound, pictures in parts:
        inputs = {"input_values": sound, "pixel_values": pictures}
        logits = model(**{name: values.to(model.device, model.dtype) for name, values in inputs.items()}).logits
        check_answers(logits, [clip.path])
        maps.append(probabilities_at(logits, clip.frames.shape[1:3])[0].cpu())
    return torch.cat(maps).numpy()
