"""`pipeline("audio-visual-segmentation")`: the pixels of what sounds, second by second."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.media import Clip, MediaError
from ..distillation.entropy_monitor import SEGMENTATION
from ..hub.prediction import check_answers
from ..hub.segmentation import FRAME_WITHIN_SECOND, THRESHOLD, frames_within, probabilities_at, sound_inputs
from .base import AudioVisualPipeline, Chunk, given, notes_of_windows
from .media_inputs import open_media

PASSED = ("path", "start", "end", "times", "notes", "error", "is_last")


class AudioVisualSegmentationPipeline(AudioVisualPipeline):
    """
    What sounds in one frame of each second, the last of 16 as in AVSBench.

    ```python
    >>> import hf_emktd
    >>> from transformers import pipeline

    >>> segmenter = pipeline("audio-visual-segmentation", model="runs/segmenter")
    >>> segmenter("clip.mp4")["frames"][0]["mask"]
    ```

    Args:
        model ([`PreTrainedModel`] or [`~export.OnnxModel`]):
            A model of masks that keeps the output contract.
        processor (`ProcessorMixin`, *optional*):
            Its processor; by default the one saved with the model.
        threshold (`float`, *optional*, defaults to 0.5):
            A pixel whose probability is greater sounds.
        return_masks (`bool`, *optional*, defaults to `True`):
            Whether to return the masks: a byte a pixel and second at the file's own size, 7 GB of an hour of 1080p.
        max_seconds (`float`, *optional*):
            How much of a file is read; by default all.
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do with a file that cannot be read: `"raise"`, or `"report"`: its answer is
            `{"path": ..., "error": ...}` and the others go on.

    A file is cut into windows of as many seconds as the model was trained with; in each, frame `i` goes with the
    `i`-th 0.96 s of its sound. A call takes what [`open_media`] takes, or a list or column of it, and gives for each

    - `frames`: of each second `time`, `mask` (a Pillow image of mode `"L"`, 255 where it sounds), `mask_share` of the
      picture and `peak_probability`;
    - `timeline`: `{"start", "end", "mask_share"}` of each window, in seconds;
    - `notes`: what was missing, such as `"no sound: silence was given"`.

    Raises:
        MediaError: a file cannot be read, or has no picture.
        ValueError: an option is out of range.
    """

    model_task = SEGMENTATION

    def _sanitize_parameters(
        self,
        threshold: float | None = None,
        return_masks: bool | None = None,
        max_seconds: float | None = None,
        on_error: str | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if not 0 <= (THRESHOLD if threshold is None else threshold) < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}.")
        reading = given(max_seconds=max_seconds, on_error=on_error)
        self.check_options(**reading)
        return reading, given(threshold=threshold, return_masks=return_masks), {}

    def chunks(self, item: Any, max_seconds: float | None = None) -> Iterator[Chunk]:
        seconds = self.model.config.num_frames
        times = [second + FRAME_WITHIN_SECOND for second in range(seconds)]
        rate = self.processor.feature_extractor.sampling_rate
        seen = False
        with open_media(item) as media:
            duration = min(media.duration(), max_seconds or math.inf)
            starts = list(range(0, max(1, frames_within(duration)), seconds))
            options = {"sampling_rate": rate, "frame_times_seconds": times, "mix_channels": True}
            for start, clip in zip(starts, media.windows(starts, seconds, **options), strict=True):
                if clip.frames is None:
                    break
                seen = True
                yield self._chunk(media.name, clip, float(start), min(start + seconds, duration))
            if not seen:
                raise MediaError(media.name, "has no picture, and only pictures can be segmented")

    def _chunk(self, name: str, clip: Clip, start: float, end: float) -> Chunk:
        """One window; where the file ends within it, or a picture stands still, the last frame is repeated."""
        seconds = self.model.config.num_frames
        count = min(frames_within(end - start), seconds)
        shown = np.minimum(np.arange(seconds), min(count, len(clip.frames)) - 1)
        input_values, notes = sound_inputs(clip, self.processor, seconds)
        return {
            **self.empty_chunk(),
            "input_values": input_values,
            "pixel_values": self.processor(images=clip.frames[shown], return_tensors="pt")["pixel_values"],
            "size": clip.frames.shape[1:3],
            "times": [start + second + FRAME_WITHIN_SECOND for second in range(count)],
            **{"path": name, "start": start, "end": end, "notes": notes},
        }

    def empty_chunk(self) -> Chunk:
        return {**super().empty_chunk(), "size": (1, 1), "times": []}

    def _forward(self, chunk: Chunk, threshold: float = THRESHOLD, return_masks: bool = True) -> Chunk:
        batched = isinstance(chunk["path"], list)
        paths, sizes, times = (chunk[name] if batched else [chunk[name]] for name in ("path", "size", "times"))
        logits = self.model(**self.model_inputs(chunk, self.model.config.input_shapes, slice(None))).logits
        check_answers(logits, paths)
        frames = [
            _frames(clip[None, : len(moments)], size, moments, threshold, return_masks)
            for clip, size, moments in zip(logits, sizes, times, strict=True)
        ]
        return {"frames": frames if batched else frames[0], **{name: chunk[name] for name in PASSED}}

    def postprocess(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        if failure := self.failure(chunks):
            return failure
        timeline = [
            {
                "start": chunk["start"],
                "end": chunk["end"],
                "mask_share": sum(frame["mask_share"] for frame in chunk["frames"]) / len(chunk["frames"]),
            }
            for chunk in chunks
        ]
        return {
            "frames": [frame for chunk in chunks for frame in chunk["frames"]],
            "timeline": timeline,
            "notes": notes_of_windows([chunk["notes"] for chunk in chunks]),
        }


def _frames(
    logits: torch.Tensor, size: tuple[int, int], times: Sequence[float], threshold: float, return_masks: bool
) -> list[dict[str, Any]]:
    """The answer for each frame of `(1, frames, rows, columns)`, at the size of the clip."""
    frames = []
    for index, time in enumerate(times):
        probabilities = probabilities_at(logits[:, index : index + 1], size)[0, 0]
        mask = (probabilities > threshold).cpu().numpy()
        picture = {"mask": Image.fromarray(mask.astype(np.uint8) * 255)} if return_masks else {}
        frames.append(
            {
                "time": time,
                **picture,
                "mask_share": float(mask.mean()),
                "peak_probability": probabilities.max().item(),
            }
        )
    return frames
