"""What a saved model says of a media file: with sound and picture, with the sound only and with the picture only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.clip_source import is_silent
from ..data.media import Clip, MediaError, read_clip
from ..plain_text import visible

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

# Of ten evenly spaced frames the official evaluation takes number 5; so does one frame here.
OFFICIAL_FRAMES = 10
INPUTS = {
    "both": ("input_values", "pixel_values"),
    "audio": ("input_values",),
    "visual": ("pixel_values",),
}
TITLES = {"both": "sound and picture", "audio": "sound only", "visual": "picture only"}
MARGIN, GAP = "  ", "   "


@dataclass(frozen=True)
class ClipPrediction:
    """The best classes of one clip.

    Args:
        path (`Path`):
            The file.
        top (`dict[str, list[tuple[str, float]]]`):
            For `"both"`, `"audio"` (sound only) and `"visual"` (picture only) the best labels with their
            probabilities, best first. What the clip does not allow is absent: a clip without sound has `"visual"`
            alone.
        notes (`list[str]`):
            What the answer lacks and why, such as `"no sound: answered from the picture"`.
    """

    path: Path
    top: dict[str, list[tuple[str, float]]]
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> list[tuple[str, float]]:
        """The answer from all that the clip has: with both modalities, else with the one that there is."""
        return next(iter(self.top.values()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        top = {
            modality: [{"label": label, "probability": probability} for label, probability in labels]
            for modality, labels in self.top.items()
        }
        return {"path": str(self.path), "notes": self.notes, "top": top}

    def table(self, width: int = 100) -> str:
        """The labels side by side as text, for a terminal `width` columns wide; long labels end in an ellipsis."""
        column = (width - len(MARGIN) - (len(INPUTS) - 1) * len(GAP)) // len(INPUTS)
        headers = [TITLES[modality].ljust(column) for modality in self.top]
        rows = [[_cell(*entry, column) for entry in entries] for entries in zip(*self.top.values(), strict=True)]
        title = f"{visible(str(self.path))}{''.join(f' ({note})' for note in self.notes)}"
        return "\n".join([title, *(f"{MARGIN}{GAP.join(row)}".rstrip() for row in [headers, *rows])])


def predict_clip(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    path: str | os.PathLike[str],
    *,
    frames: int = 1,
    top_k: int = 5,
) -> ClipPrediction:
    """Runs a model on a media file: once with all the file has, and with the sound and the picture alone; a model of
    one modality once.

    Args:
        model (`PreTrainedModel`):
            A classifier that keeps the output contract, in evaluation mode, on any device.
        processor (`ProcessorMixin`):
            Its processor.
        path (`str` or `os.PathLike`):
            A clip in any container; its first 10 seconds are read.
        frames (`int`, *optional*, defaults to 1):
            1: the middle one of ten frames. More: the softmax averaged over so many evenly spaced frames, 10 in the
            official evaluation.
        top_k (`int`, *optional*, defaults to 5):
            Number of labels, at most all.

    Returns:
        [`ClipPrediction`]: a clip without sound, or with a silent sound stream, is answered from the picture alone,
        one without a picture from the sound; its notes say so.

    Raises:
        MediaError: the file cannot be read, or has neither sound nor picture, or not the one that the model takes.
        ValueError: `frames` or `top_k` is below 1.

    Example:

    ```python
    >>> import hf_emktd
    >>> from hf_emktd.hub import predict_clip
    >>> from transformers import AutoModel, AutoProcessor

    >>> model, processor = AutoModel.from_pretrained("runs/student"), AutoProcessor.from_pretrained("runs/student")
    >>> label, probability = predict_clip(model, processor, "clip.mp4").best[0]
    ```"""
    for name, value in (("frames", frames), ("top_k", top_k)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    rate = processor.feature_extractor.sampling_rate
    clip = read_clip(path, sampling_rate=rate, num_frames=OFFICIAL_FRAMES if frames == 1 else frames)
    inputs, notes = clip_inputs(clip, processor, middle_frame=frames == 1)
    if not inputs:
        raise MediaError(clip.path, nothing_to_answer(processor))
    inputs = {name: values.to(model.device, model.dtype) for name, values in inputs.items()}
    top = {
        modality: _best_labels(model, {name: inputs[name] for name in names}, top_k, clip.path)
        for modality, names in INPUTS.items()
        if inputs.keys() >= set(names)
    }
    return ClipPrediction(clip.path, top, notes)


def clip_inputs(
    clip: Clip, processor: ProcessorMixin, middle_frame: bool
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """
    What a model is given of a clip, and what it has to do without.

    Args:
        clip ([`Clip`]):
            As it was read.
        processor (`ProcessorMixin`):
            The model's; what it does not name among its `model_input_names` is left out.
        middle_frame (`bool`):
            Whether to take the middle one of the clip's frames instead of all.

    Returns:
        `tuple`: `input_values` `(1, time, mel)` and `pixel_values` `(frames, 3, height, width)` of what the clip has,
        empty for one that has nothing for this model; and the notes.
    """
    taken = processor.model_input_names
    inputs, notes = {}, []
    if "input_values" in taken:
        if clip.waveform is not None and not is_silent(clip.waveform):
            sound = processor(audio=clip.waveform, sampling_rate=clip.sampling_rate, return_tensors="pt")
            inputs["input_values"] = sound["input_values"]
        else:
            silent = "" if clip.waveform is None else ", the stream is silent"
            notes.append(f"no sound{silent}: answered from the picture")
    if "pixel_values" in taken:
        if clip.frames is not None:
            frames = clip.frames[len(clip.frames) // 2][None] if middle_frame else clip.frames
            inputs["pixel_values"] = processor(images=frames, return_tensors="pt")["pixel_values"]
        else:
            notes.append("no picture: answered from the sound")
    return inputs, notes


def nothing_to_answer(processor: ProcessorMixin) -> str:
    """Why a clip of which [`clip_inputs`] are empty has no answer."""
    taken = processor.model_input_names
    if len(taken) > 1:
        return "has neither sound nor picture"
    return {
        "input_values": "has no sound, and the model only hears",
        "pixel_values": "has no picture, and the model only sees",
    }[taken[0]]


def check_answers(logits: torch.Tensor, paths: Sequence[str | os.PathLike[str]]) -> None:
    """Raises `ValueError` with the paths of the clips to which a model's answer `(batch, ...)` is not finite."""
    is_bad = ~logits.flatten(1).isfinite().all(dim=1)
    if is_bad.any():
        bad = dict.fromkeys(str(path) for path, bad in zip(paths, is_bad.tolist(), strict=True) if bad)
        raise ValueError(
            f"the model's answer to {', '.join(bad)} is NaN or infinite: its weights are broken, or its precision "
            f"({logits.dtype}) is too low for them. Load it with dtype=torch.float32."
        )


def rank_labels(probabilities: torch.Tensor, id2label: dict[int, str], top_k: int) -> list[tuple[str, float]]:
    """The best `top_k` labels with their probabilities `(classes,)`, best first; all where there are fewer."""
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    return [(id2label[index], value) for value, index in zip(values.tolist(), indices.tolist(), strict=True)]


@torch.inference_mode()
def _best_labels(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], top_k: int, path: Path
) -> list[tuple[str, float]]:
    """The softmax averaged over the frames; the one spectrogram goes with each of them."""
    batch = max(len(values) for values in inputs.values())
    logits = model(**{name: values.expand(batch, *values.shape[1:]) for name, values in inputs.items()}).logits
    check_answers(logits, [path] * batch)
    return rank_labels(logits.float().softmax(dim=-1).mean(dim=0), model.config.id2label, top_k)


def _cell(label: str, probability: float, width: int) -> str:
    number = f" {probability:.3f}"
    room, label = width - len(number), visible(label)
    label = label if len(label) <= room else f"{label[: room - 1].rstrip()}…"
    return label.ljust(room) + number
