"""Clips as a report shows them: thumbnails, Gram matrices, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..analysis.clip_batches import chosen_clips
from ..data.features import decode_frame
from ..distillation.kernels import TokenKernel
from ..distillation.objectives.mask_logit_distillation import resize_logits
from ..distillation.teacher import LiveTeacher
from ..hub.distillation_summary import SEGMENTATION
from ..hub.mask_pictures import draw_mask
from .at_hand import Clips, LoadedModel
from .clip_scores import answers, paired_batches, paired_tokens
from .pictures import heat_map, to_data_uri

THUMBNAIL = 128
GAP = 4
# Frames of a scene that are shown at most.
FRAMES = 5
SOUND_COLOURS, GRAM_COLOURS, DIFFERENCE_COLOURS = "magma", "viridis", "magma"


@dataclass(frozen=True)
class GramMaps:
    """
    Gram matrices of one clip in one branch, as data URIs.

    Args:
        low, high: kernel values of the first and the last colour of both matrices.
        largest: difference of the last colour of `difference`; the first is 0.
    """

    branch: str
    tokens: int
    student: str
    teacher: str
    difference: str
    low: float
    high: float
    largest: float


@dataclass(frozen=True)
class ShownClip:
    """
    A clip and its pictures as data URIs.

    Args:
        place: in the views.
        picture, sound: the middle frame and the spectrogram; `None` where a clip has none.
        grams: by branch; empty unless asked for.
        strips: by title, of a scene the frames with their masks.
    """

    place: int
    clip_id: str
    picture: str | None
    sound: str | None
    grams: list[GramMaps] = field(default_factory=list)
    strips: dict[str, str] = field(default_factory=dict)


def show_clips(
    places: Sequence[int],
    student: LoadedModel,
    teacher: LiveTeacher,
    clips: Clips,
    teacher_processor: Any,
    kernel: TokenKernel,
) -> dict[int, ShownClip]:
    """By place the clips at these places of the views, which are passed through both models once more."""
    places = sorted(set(map(int, places)))
    features = clips.data.split(clips.split).with_format(None)
    features = features.select(chosen_clips(len(features), clips.most, clips.seed)).select(places)
    shown = {}
    for batch in paired_batches(student, clips, teacher_processor, "Shown clips", only=places):
        output, signal = answers(student, teacher, batch)
        tokens = paired_tokens(output, signal, student.model.config)
        for index in range(len(batch["labels"])):
            row, place = features[len(shown)], places[len(shown)]
            grams = [
                gram_maps(branch, ours[index], theirs[index], kernel) for branch, (ours, theirs) in tokens.items()
            ]
            strips = {}
            if student.model.config.task == SEGMENTATION:
                logits = {"teacher": signal.logits[index], "student": output.logits[index]}
                strips = mask_strips(row["frames"], batch["labels"][index], logits)
            sound = batch.get("input_values", batch.get("teacher_input_values"))
            shown[place] = ShownClip(
                place, row["clip_id"], _thumbnail(row["frames"]), _spectrogram(sound, index), grams, strips
            )
    return shown


def gram_maps(branch: str, student_tokens: Tensor, teacher_tokens: Tensor, kernel: TokenKernel) -> GramMaps:
    """Of tokens `(tokens, width)` of one clip; both matrices in the same colours."""
    ours, theirs = (kernel.gram(tokens).cpu().numpy() for tokens in (student_tokens, teacher_tokens))
    low, high = float(min(ours.min(), theirs.min())), float(max(ours.max(), theirs.max()))
    difference = np.abs(ours - theirs)
    return GramMaps(
        branch=branch,
        tokens=len(ours),
        student=to_data_uri(heat_map(ours, low, high, GRAM_COLOURS)),
        teacher=to_data_uri(heat_map(theirs, low, high, GRAM_COLOURS)),
        difference=to_data_uri(heat_map(difference, 0, float(difference.max()), DIFFERENCE_COLOURS)),
        low=low,
        high=high,
        largest=float(difference.max()),
    )


def mask_strips(frames: Sequence[bytes], labels: Tensor, logits: dict[str, Tensor]) -> dict[str, str]:
    """
    Rows of at most five frames of a scene, each with its masks: the ground truth, then those of `logits`
    `(frames, height, width)`. A frame without a label stays as it is.
    """
    size, count = labels.shape[-2:], min(len(frames), len(labels))
    kept = np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int))
    pictures = {index: np.asarray(decode_frame(frames[index]).resize(size[::-1])) for index in kept}
    masks = {"ground truth": labels == 1}
    masks |= {title: resize_logits(one[None].float(), size)[0] > 0 for title, one in logits.items()}
    strips = {}
    for title, mask in masks.items():
        cells = [draw_mask(pictures[index], mask[index].cpu().numpy()) for index in kept]
        strips[title] = to_data_uri(_row(cells))
    return strips


def _row(cells: list[np.ndarray]) -> Image.Image:
    side = (round(THUMBNAIL * cells[0].shape[1] / cells[0].shape[0]), THUMBNAIL)
    row = Image.new("RGB", (len(cells) * (side[0] + GAP) - GAP, side[1]), "gray")
    for column, cell in enumerate(cells):
        row.paste(Image.fromarray(cell).resize(side, Image.Resampling.BICUBIC), (column * (side[0] + GAP), 0))
    return row


def _thumbnail(frames: Sequence[bytes] | None) -> str | None:
    if not frames:
        return None
    image = decode_frame(frames[len(frames) // 2])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return to_data_uri(image)


def _spectrogram(sounds: Tensor | None, index: int) -> str | None:
    """Time to the right, low frequencies below, each clip in colours of its own range."""
    if sounds is None:
        return None
    values = sounds[index].float().flatten(0, -2).T.flip(0).cpu().numpy()
    return to_data_uri(heat_map(values, float(values.min()), float(values.max()), SOUND_COLOURS))
