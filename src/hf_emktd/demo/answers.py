"""What a model says of one uploaded file, ready to be shown."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import pipeline

from ..distillation.entropy_monitor import SEGMENTATION
from ..hub.mask_pictures import write_overlay
from ..hub.segmentation import segment_clip
from ..metrics import count_parameters, measure_latency_ms
from ..training.loading import load_model

if TYPE_CHECKING:
    import torch

TIMED_PASSES = 5


@dataclass(frozen=True)
class Answer:
    """
    What one model says of one file.

    Args:
        role (`str`):
            `"model"`, `"student"` or `"teacher"`.
        name (`str`):
            Last part of the model's path or Hub id.
        parameters (`int`):
            How many the model has.
        latency_ms (`float`):
            Median milliseconds of a forward pass of one clip, measured when the page started.
        notes (`list[str]`):
            What the file lacks.
        events (`dict`, *optional*):
            What the classification pipeline returns with `by_modality`.
        overlay (`bytes`, *optional*):
            An mp4 of the file with the masks drawn on it.
        shares (`list[tuple[float, float]]`):
            Of masks: seconds, and the share of the picture that sounds then.
    """

    role: str
    name: str
    parameters: int
    latency_ms: float
    notes: list[str]
    events: dict[str, Any] | None = None
    overlay: bytes | None = None
    shares: list[tuple[float, float]] = field(default_factory=list)


class Respondent:
    """
    A model that answers uploads.

    Args:
        name_or_path (`str`):
            Directory or Hub id of a classifier or a model of masks.
        role (`str`, *optional*, defaults to `"model"`):
            What the page calls it.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where it runs.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, name_or_path: str, role: str = "model", device: torch.device | str = "cpu") -> None:
        self.role, self.name = role, Path(name_or_path).resolve().name
        self.model, self.processor = load_model(name_or_path)
        self.task = self.model.config.task
        self.model.to(device).eval()
        self.parameters = count_parameters(self.model)
        self.latency_ms = measure_latency_ms(self.model, repetitions=TIMED_PASSES, warmup=1)
        if self.task != SEGMENTATION:
            self._classifier = pipeline(self.task, model=self.model, processor=self.processor, device=device)

    def answer(self, path: str | os.PathLike[str], duration: float, top_k: int = 5) -> Answer:
        """
        Answers a file that [`UploadLimits`] let pass.

        Args:
            path (`str` or `os.PathLike`): The file.
            duration (`float`): Its seconds.
            top_k (`int`, *optional*, defaults to 5): Labels for each sense.

        Raises:
            [`MediaError`]: it cannot be read, or has nothing that this model takes.
        """
        if self.task == SEGMENTATION:
            found = self._masks(path, duration)
        else:
            events = self._classifier(os.fspath(path), by_modality=True, top_k=top_k)
            found = {"events": events, "notes": events["notes"]}
        return Answer(self.role, self.name, self.parameters, self.latency_ms, **found)

    def _masks(self, path: str | os.PathLike[str], duration: float) -> dict[str, Any]:
        segmentation = segment_clip(self.model, self.processor, path, seconds=max(1, math.ceil(duration)))
        with tempfile.TemporaryDirectory(prefix="hf_emktd_") as folder:
            overlay = write_overlay(segmentation, Path(folder, "overlay.mp4")).read_bytes()
        shares = list(zip(segmentation.times_seconds.tolist(), segmentation.shares, strict=True))
        return {"overlay": overlay, "shares": shares, "notes": segmentation.notes}
