"""One view of a scene: pictures, VGGish examples and masks, prepared for a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image, ImageOps

from .augmentation import ViewArguments, ViewTransform
from .features import decode_frame
from .scene_features import IGNORE_INDEX, decode_log_mel, decode_mask

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.avsegformer import AvSegFormerProcessor


__all__ = ["SOUNDS", "SceneAugmentationArguments", "SceneTransform"]

SOUNDS = ("own", "silence", "swapped")


@dataclass
class SceneAugmentationArguments(ViewArguments):
    """
    What changes between two views of one training scene. The official recipes of AVSBench and AVSegFormer change
    nothing; neither do the defaults.

    Raises:
        ValueError: if a probability is outside [0, 1].
    """

    flip_probability: float = field(
        default=0.0, metadata={"help": "Probability of mirroring all pictures and masks of a scene left to right."}
    )
    silence_probability: float = field(
        default=0.0,
        metadata={
            "help": "Probability of replacing the sound by silence and the masks of labelled frames by empty ones. "
            "Dice alone learns nothing from them: give the model mask_loss=dice_bce."
        },
    )

    def __post_init__(self) -> None:
        for name in ("flip_probability", "silence_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")

    @classmethod
    def none(cls) -> Self:
        """The view used in evaluation."""
        return cls(flip_probability=0.0, silence_probability=0.0)


class SceneTransform(ViewTransform):
    """
    Turns stored features into model inputs, for `datasets.Dataset.with_transform`.

    Every random choice of a view comes from one generator seeded by `(seed, view_seed)`, so a view is replayed from
    the integer alone.

    Args:
        processor: the student's [`AvSegFormerProcessor`].
        augmentation: [`SceneAugmentationArguments`]; *optional*, defaults to `SceneAugmentationArguments.none()`.
        teacher_processor: *optional*; when it prepares inputs differently (image size), every view also carries
            `teacher_input_values` and `teacher_pixel_values`, mirrored and silenced as the student's.
        seed: distinguishes two transforms that see equal view seeds.
        sound: `"own"`; or a control of how much a model listens, `"silence"` or `"swapped"`, the sound of the next
            scene of `partners` in another class, in turn (the next scene, where all are of one class). Controls change
            the sound alone: labels remain those of the scene's own sound, and what they should be is the evaluation's
            affair.
        partners: the features sounds are swapped in, normally the split itself; needed for `"swapped"`.

    Raises:
        ValueError: if `sound` is unknown, there are not two scenes to swap, or the processors differ in frames.
    """

    def __init__(
        self,
        processor: AvSegFormerProcessor,
        augmentation: SceneAugmentationArguments | None = None,
        teacher_processor: AvSegFormerProcessor | None = None,
        seed: int = 0,
        sound: str = "own",
        partners: Dataset | None = None,
    ) -> None:
        if sound not in SOUNDS:
            raise ValueError(f"unknown sound {sound!r}; expected {', '.join(map(repr, SOUNDS))}.")
        self.processor = processor
        self.augmentation = augmentation or SceneAugmentationArguments.none()
        self.seed = seed
        self.sound = sound
        self.num_frames = processor.feature_extractor.num_frames
        self.teacher_processor = self._unless_same(teacher_processor)
        self._check_teacher_frames()
        self.partners = None
        if sound == "swapped":
            self._set_partners(partners)

    def view(self, features_row: dict[str, Any], view_seed: int) -> dict[str, Any]:
        """
        The view of one scene that belongs to `view_seed`.

        Args:
            features_row: a row of [`extract_scene_features`].
            view_seed: non-negative integer.

        Returns:
            dict with `clip_id`; `label`, an int; `input_values` float32 `(frames, 96, 64)`; `pixel_values` float32
            `(frames, 3, S, S)`; `labels` int64 `(frames, S, S)`, 1 where something sounds, else 0, and `IGNORE_INDEX`
            in frames without mask; `teacher_input_values` and `teacher_pixel_values` when the teacher prepares inputs
            differently. Of a longer scene the first frames are taken; a shorter one is continued with grey pictures
            without label (zeros, as the official loader of the semantic subset does) and its last sound.
        """
        random = np.random.default_rng([self.seed, view_seed])
        flipped, silenced = random.random(2) < (
            self.augmentation.flip_probability,
            self.augmentation.silence_probability,
        )
        log_mel = None if silenced or self.sound == "silence" else self._heard(features_row)
        frames = [decode_frame(data) for data in features_row["frames"][: self.num_frames]]
        frames = [ImageOps.mirror(frame) for frame in frames] if flipped else frames
        view = {"clip_id": features_row["clip_id"], "label": int(features_row["label"])}
        view |= self._model_inputs(self.processor, log_mel, frames)
        view["labels"] = self._labels(features_row["masks"][: self.num_frames], flipped, silenced)
        if self.teacher_processor is not None:
            inputs = self._model_inputs(self.teacher_processor, log_mel, frames)
            view |= {f"teacher_{name}": value for name, value in inputs.items()}
        return view

    @property
    def settings(self) -> dict[str, Any]:
        augmentation = asdict(self.augmentation)
        return {"seed": self.seed, "sound": self.sound, "augmentation": augmentation, "num_frames": self.num_frames}

    def _check_teacher_frames(self) -> None:
        if self.teacher_processor is None:
            return
        teacher_frames = self.teacher_processor.feature_extractor.num_frames
        if teacher_frames != self.num_frames:
            raise ValueError(
                f"the teacher sees {teacher_frames} frames of a scene, the student {self.num_frames}; one view serves "
                "both, so give the student the teacher's num_frames."
            )

    def _set_partners(self, partners: Dataset | None) -> None:
        if partners is None or len(partners) < 2:
            raise ValueError(
                "swapped sounds need two scenes or more: pass partners=<the features of the split> to SceneTransform."
            )
        self.partners = partners.with_format(None)
        labels = np.asarray(self.partners["label"][:])
        self.partner_of = {
            clip_id: _next_of_another_class(labels, index) for index, clip_id in enumerate(self.partners["clip_id"][:])
        }

    def _heard(self, row: dict[str, Any]) -> np.ndarray:
        if self.partners is None:
            return decode_log_mel(row["log_mel"])
        return decode_log_mel(self.partners[self.partner_of[row["clip_id"]]]["log_mel"])

    def _model_inputs(
        self, processor: AvSegFormerProcessor, log_mel: np.ndarray | None, frames: list[Image.Image]
    ) -> dict[str, np.ndarray]:
        extractor, size = processor.feature_extractor, processor.image_processor.image_size
        pixel_values = np.zeros((self.num_frames, 3, size, size), np.float32)
        for place, frame in zip(pixel_values, frames, strict=False):
            place[:] = _to_pixel_values(processor.image_processor, frame)
        sound = (
            extractor.silence(self.num_frames) if log_mel is None else extractor.fit_frames(log_mel, self.num_frames)
        )
        return {"input_values": sound, "pixel_values": pixel_values}

    def _labels(self, masks: list[bytes | None], flipped: bool, silenced: bool) -> np.ndarray:
        size = self.processor.image_processor.image_size
        labels = np.full((self.num_frames, size, size), IGNORE_INDEX, np.int64)
        for label, data in zip(labels, masks, strict=False):
            if data is not None:
                label[:] = 0 if silenced else self._mask(data, flipped)
        return labels

    def _mask(self, data: bytes, flipped: bool) -> np.ndarray:
        mask, side = decode_mask(data), self.processor.image_processor.image_size
        mask = mask[:, ::-1] if flipped else mask
        # resizing converts the mask to colours on the way, which takes longer than all else that is done with it
        if mask.shape == (side, side):
            return mask
        return self.processor.image_processor.resize_mask(Image.fromarray(mask))


def _to_pixel_values(image_processor: Any, frame: Image.Image) -> np.ndarray:
    side = image_processor.image_size
    return image_processor.to_pixel_values(frame if frame.size == (side, side) else image_processor.resize(frame))


def _next_of_another_class(labels: np.ndarray, index: int) -> int:
    """The first index after `index`, counted in a circle, with another label; simply the next where there is none."""
    others = np.flatnonzero(np.roll(labels, -index) != labels[index])
    return (index + (int(others[0]) if len(others) else 1)) % len(labels)
