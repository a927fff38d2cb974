"""One view of a clip: a frame and a log-mel spectrogram, augmented as CAV-MAE's fine-tuning does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from .features import decode_fbank, decode_frame, same_inputs

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.cav_mae import CavMaeImageProcessor, CavMaeProcessor


__all__ = [
    "AugmentationArguments",
    "ClipTransform",
    "ViewArguments",
    "ViewTransform",
    "balanced_sample_weights",
    "mix_fbanks",
]

# official mask limits, stated for 128 mel bins and 1024 frames
FREQ_MASK_SHARE = 48 / 128
TIME_MASK_SHARE = 192 / 1024
# kaldi floors every mel energy at the float32 epsilon before the logarithm
LOG_FLOOR = float(np.log(np.finfo(np.float32).eps))


@dataclass
class ViewArguments(ABC):
    """What changes between two views of one training clip."""

    def fill_from(self, config: Any) -> Self:
        """
        The augmentation that `config` (of a trained model) names, but for options that were changed here: a student is
        trained as its teacher was. An option given its default counts as left alone.
        """
        defaults = asdict(type(self)())
        changed = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return type(self)(**((getattr(config, "training_augmentation", None) or {}) | changed))

    @classmethod
    @abstractmethod
    def none(cls) -> Self:
        """The view used in evaluation, with nothing random."""


@dataclass
class AugmentationArguments(ViewArguments):
    """
    What changes between two views of one training clip; the defaults are CAV-MAE's official VGGSound recipe.

    Source: `run_cavmae_ft.sh` and `dataloader.py` of CAV-MAE (freqm 48, timem 192, noise on, mixup 0.5).

    Raises:
        ValueError: if a probability is outside [0, 1] or a mask limit or `mixup_alpha` is out of range.
    """

    random_frame: bool = field(
        default=True, metadata={"help": "Take a random stored frame of the clip instead of the middle one."}
    )
    freq_mask_bins: int | None = field(
        default=None,
        metadata={
            "help": "SpecAugment: fewer than this many neighbouring mel bins are masked. 0 switches it off; "
            "by default 48 of 128 bins, in proportion to the model's input."
        },
    )
    time_mask_frames: int | None = field(
        default=None,
        metadata={
            "help": "SpecAugment: fewer than this many neighbouring spectrogram frames are masked. 0 switches it "
            "off; by default 192 of 1024 frames, in proportion to the model's input."
        },
    )
    noise: bool = field(
        default=True,
        metadata={"help": "Add uniform noise of a random level below 0.1 to the normalised spectrogram."},
    )
    roll: bool = field(
        default=True,
        metadata={"help": "Roll the spectrogram along time by a random number of frames, as the official noise does."},
    )
    mixup_probability: float = field(
        default=0.5,
        metadata={"help": "Probability of mixing a clip (sound, picture and label) with a random other one."},
    )
    mixup_alpha: float = field(
        default=10.0, metadata={"help": "The share of a mixed clip is drawn from Beta(mixup_alpha, mixup_alpha)."}
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.mixup_probability <= 1.0:
            raise ValueError(f"mixup_probability must lie in [0, 1], got {self.mixup_probability}.")
        if self.mixup_alpha <= 0:
            raise ValueError(f"mixup_alpha must be positive, got {self.mixup_alpha}; mixup_probability=0 is no mixup.")
        for name in ("freq_mask_bins", "time_mask_frames"):
            limit = getattr(self, name)
            if limit is not None and limit < 0:
                raise ValueError(f"{name} must be 0 (off), positive or None (official share), got {limit}.")

    @classmethod
    def none(cls) -> Self:
        """The view used in evaluation: the middle frame and the untouched spectrogram."""
        return cls(
            random_frame=False, freq_mask_bins=0, time_mask_frames=0, noise=False, roll=False, mixup_probability=0.0
        )


def balanced_sample_weights(labels: Sequence[int], num_labels: int) -> np.ndarray:
    """
    Sampling weights that make every class about equally frequent: `1000 / (clips of the class + 0.01)`.

    Source: `gen_weight_file.py` of CAV-MAE.

    Args:
        labels: class id of every clip, `(clips,)`.
        num_labels: number of classes; classes without a clip are allowed.

    Returns:
        `np.ndarray` of shape `(clips,)`, float64, for `torch.utils.data.WeightedRandomSampler`.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_labels:
        raise ValueError(
            f"labels must be class ids from 0 to {num_labels - 1}, got {labels.min()} to {labels.max()}; "
            "pass the number of classes of the label list."
        )
    counts = np.bincount(labels, minlength=num_labels)
    return (1000.0 / (counts + 0.01))[labels]


def mix_fbanks(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """
    Log-mel spectrogram of `share * first + (1 - share) * second`, from the log-mel spectrograms of the two sounds.

    The official code mixes waveforms. Stored spectrograms hold no phase, so this is the expectation over it: powers
    of uncorrelated sounds add, `log(share^2 e^first + (1 - share)^2 e^second)`. Single bins of the true mixture
    deviate by the interference of the two sounds: 0.4 nats root mean square between recordings of VGGSound, 0.75
    between equally loud white noises (the worst case), where the spectrogram's own standard deviation is 4.5.

    Args:
        first: float32 `(frames, mel)` natural-log mel energies; decides the length, as in the official code.
        second: float32 `(other frames, mel)`; cut, or continued with silence.
        share: weight of the first waveform, in [0, 1].

    Returns:
        float32 `(frames, mel)`.
    """
    power = share**2 * np.exp(first)
    frames = min(len(first), len(second))
    power[:frames] += (1 - share) ** 2 * np.exp(second[:frames])
    return np.maximum(np.log(np.maximum(power, np.finfo(np.float32).tiny)), LOG_FLOOR)


class ViewTransform(ABC):
    """
    Turns stored features into model inputs, for `datasets.Dataset.with_transform`.

    A view is replayed from an integer alone; called as a transform, view seeds are drawn from torch's generator,
    which `Trainer` and the workers of a `DataLoader` seed.
    """

    processor: Any
    augmentation: ViewArguments

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Views of a batch of feature rows (dict of lists in, dict of lists out); torch's generator is only drawn
        from when something is random, so evaluation does not shift the training run's random numbers."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        if self.augmentation == type(self.augmentation).none():
            seeds = [0] * len(rows)
        else:
            seeds = torch.randint(2**63 - 1, (len(rows),)).tolist()
        views = [self.view(row, seed) for row, seed in zip(rows, seeds, strict=True)]
        return {key: [view[key] for view in views] for key in views[0]}

    @abstractmethod
    def view(self, features_row: dict[str, Any], view_seed: int) -> dict[str, Any]:
        """The view of one clip that belongs to `view_seed`, a non-negative integer."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides, beside the clips, what a teacher sees in the view of a seed, as plain JSON values."""

    def _unless_same(self, teacher: Any | None) -> Any | None:
        """The teacher's processor, or `None` where it prepares the same inputs."""
        return None if teacher is None or same_inputs(teacher, self.processor) else teacher


class ClipTransform(ViewTransform):
    """
    Turns stored features into model inputs, for `datasets.Dataset.with_transform`.

    The order is the official one: mixup, pad or cut, SpecAugment with mask value 0, normalise, noise, roll. Every
    random choice of a view comes from one generator seeded by `(seed, view_seed)`, so a view is replayed from the
    integer alone; called as a transform, view seeds are drawn from torch's generator, which `Trainer` and the workers
    of a `DataLoader` seed.

    Args:
        processor: the student's [`CavMaeProcessor`].
        augmentation: [`AugmentationArguments`]; *optional*, defaults to `AugmentationArguments.none()` (evaluation).
        teacher_processor: *optional*; when it prepares inputs differently (sizes, normalisation), every view also
            carries `teacher_input_values` and `teacher_pixel_values`. They show the student's view: what was cut,
            masked, rolled or mixed for the student is so for the teacher.
        frame_index: *optional*, the frame taken when frames are not random; defaults to the middle one, `total // 2`.
            A clip with fewer frames gives its last one before the index.
        seed: distinguishes two transforms that see equal view seeds.
        partners: the features clips are mixed with, normally the training split itself; needed for mixup.

    Raises:
        ValueError: if mixup is on without `partners`, a mask is larger than the input, `frame_index` contradicts
            `random_frame`, or the processors differ in mel bins.
    """

    def __init__(
        self,
        processor: CavMaeProcessor,
        augmentation: AugmentationArguments | None = None,
        teacher_processor: CavMaeProcessor | None = None,
        frame_index: int | None = None,
        seed: int = 0,
        partners: Dataset | None = None,
    ) -> None:
        self.processor = processor
        self.augmentation = augmentation or AugmentationArguments.none()
        self.frame_index = frame_index
        self.seed = seed
        self.num_mel_bins = processor.feature_extractor.num_mel_bins
        self.num_frames = processor.feature_extractor.audio_length
        self.freq_mask_bins, self.time_mask_frames = self._mask_limits()
        self.teacher_processor = self._teacher_processor_if_different(teacher_processor)
        self._check_frame_index()
        self._set_partners(partners)

    def view(self, features_row: dict[str, Any], view_seed: int) -> dict[str, Any]:
        """
        The view of one clip that belongs to `view_seed`.

        Args:
            features_row: `clip_id`, `label`, `fbank` (bytes or `None`) and `frames` (list of JPEG bytes or `None`).
            view_seed: non-negative integer.

        Returns:
            dict with `clip_id`; `label`, an int, or float32 `(classes,)` when mixup is on; `input_values` float32
            `(audio_length, mel)` and `pixel_values` float32 `(3, height, width)`, each `None` where the clip lacks it
            or the student does not take it;
            `teacher_input_values` and `teacher_pixel_values` when the teacher prepares inputs differently.
        """
        random = np.random.default_rng([self.seed, view_seed])
        clips, shares = self._draw_clips(features_row, random)
        fbank = self._augmented_fbank([clip["fbank"] for clip in clips], shares, random)
        frames = [self._draw_frame(clip["frames"], random) for clip in clips]
        view = {"clip_id": features_row["clip_id"], "label": self._label(clips, shares)}
        view |= _model_inputs(self.processor, fbank, frames, shares)
        if self.teacher_processor is not None:
            inputs = _model_inputs(self.teacher_processor, fbank, frames, shares)
            view |= {f"teacher_{name}": value for name, value in inputs.items()}
        return view

    @property
    def settings(self) -> dict[str, Any]:
        std = self.processor.feature_extractor.std if self.augmentation.noise else None
        limits = {"freq_mask_bins": self.freq_mask_bins, "time_mask_frames": self.time_mask_frames}
        return {
            "seed": self.seed,
            "frame_index": self.frame_index,
            "augmentation": asdict(self.augmentation) | limits,
            # the noise is added, and the sound is cut and rolled, as the student hears it
            "student_hears": {"audio_length": self.num_frames, "num_mel_bins": self.num_mel_bins, "std": std},
        }

    def _mask_limits(self) -> tuple[int, int]:
        limits = []
        for name, size, share in (
            ("freq_mask_bins", self.num_mel_bins, FREQ_MASK_SHARE),
            ("time_mask_frames", self.num_frames, TIME_MASK_SHARE),
        ):
            limit = getattr(self.augmentation, name)
            limit = round(share * size) if limit is None else limit
            if limit > size:
                raise ValueError(f"{name}={limit} is more than the input's {size}; use None for the official share.")
            limits.append(limit)
        return tuple(limits)

    def _teacher_processor_if_different(self, teacher: CavMaeProcessor | None) -> CavMaeProcessor | None:
        teacher = self._unless_same(teacher)
        if teacher is not None and teacher.feature_extractor.num_mel_bins != self.num_mel_bins:
            raise ValueError(
                f"the teacher hears {teacher.feature_extractor.num_mel_bins} mel bins, the student "
                f"{self.num_mel_bins}; one view serves both, so give the student the teacher's num_mel_bins."
            )
        return teacher

    def _check_frame_index(self) -> None:
        if self.frame_index is None:
            return
        if self.frame_index < 0:
            raise ValueError(f"frame_index must not be negative, got {self.frame_index}.")
        if self.augmentation.random_frame:
            raise ValueError(f"frame_index={self.frame_index} has no effect with random_frame=True; set one of them.")

    def _set_partners(self, partners: Dataset | None) -> None:
        self.partners, self.num_labels = None, None
        if self.augmentation.mixup_probability == 0:
            return
        if not partners:
            raise ValueError(
                "mixup needs clips to mix with: pass partners=<the training features> to ClipTransform, "
                "or set mixup_probability=0."
            )
        self.partners = partners.with_format(None)
        self.num_labels = partners.features["label"].num_classes

    def _draw_clips(
        self, row: dict[str, Any], random: np.random.Generator
    ) -> tuple[list[dict[str, Any]], tuple[float, ...]]:
        if self.partners is None or random.random() >= self.augmentation.mixup_probability:
            return [row], (1.0,)
        partner = self.partners[int(random.integers(len(self.partners)))]
        for name in ("fbank", "frames"):
            if (row[name] is None) != (partner[name] is None):
                raise ValueError(
                    f"clips {row['clip_id']!r} and {partner['clip_id']!r} cannot be mixed: only one has {name}. "
                    "Keep clips that have the same modalities, or set mixup_probability=0."
                )
        share = float(random.beta(self.augmentation.mixup_alpha, self.augmentation.mixup_alpha))
        return [row, partner], (share, 1 - share)

    def _label(self, clips: list[dict[str, Any]], shares: tuple[float, ...]) -> int | np.ndarray:
        if self.partners is None:
            return int(clips[0]["label"])
        label = np.zeros(self.num_labels, dtype=np.float32)
        for clip, share in zip(clips, shares, strict=True):
            label[clip["label"]] += share
        return label

    def _draw_frame(self, frames: list[bytes] | None, random: np.random.Generator) -> bytes | None:
        if not frames:
            return None
        if self.augmentation.random_frame:
            return frames[int(random.integers(len(frames)))]
        index = len(frames) // 2 if self.frame_index is None else self.frame_index
        return frames[min(index, len(frames) - 1)]

    def _augmented_fbank(
        self, fbanks: list[bytes | None], shares: tuple[float, ...], random: np.random.Generator
    ) -> np.ndarray | None:
        """The spectrogram before normalisation. Noise is scaled by the normaliser's std, so after it the student's
        input carries exactly the official noise and a teacher with other constants sees the same sound."""
        if fbanks[0] is None:
            return None
        fbank = decode_fbank(fbanks[0], self.num_mel_bins)
        if len(fbanks) == 2:
            fbank = mix_fbanks(fbank, decode_fbank(fbanks[1], self.num_mel_bins), shares[0])
        fbank = self.processor.feature_extractor.pad_or_cut(fbank)
        _mask(fbank.T, self.freq_mask_bins, random)
        _mask(fbank, self.time_mask_frames, random)
        if self.augmentation.noise:
            level = np.float32(self.processor.feature_extractor.std * random.random() / 10)
            fbank += level * random.random(fbank.shape, dtype=np.float32)
        if self.augmentation.roll:
            start = -int(random.integers(-self.num_frames, self.num_frames)) % self.num_frames
            fbank = np.concatenate([fbank[start:], fbank[:start]])  # numpy.roll, in a third of its time
        return fbank


def _mask(fbank: np.ndarray, limit: int, random: np.random.Generator) -> None:
    """Set a run of rows to 0 in place, with the widths and starts of torchaudio's `TimeMasking(limit)`."""
    if limit == 0:
        return
    width = random.random() * limit
    start = int(random.random() * (len(fbank) - width))
    fbank[start : start + int(width)] = 0.0


def _model_inputs(
    processor: CavMaeProcessor, fbank: np.ndarray | None, frames: list[bytes | None], shares: tuple[float, ...]
) -> dict[str, np.ndarray | None]:
    taken = processor.model_input_names
    return {
        "input_values": _input_values(processor, fbank) if fbank is not None and "input_values" in taken else None,
        "pixel_values": _pixel_values(processor, frames, shares) if frames[0] and "pixel_values" in taken else None,
    }


def _input_values(processor: CavMaeProcessor, fbank: np.ndarray) -> np.ndarray:
    extractor = processor.feature_extractor
    if len(fbank) != extractor.audio_length:
        fbank = extractor.pad_or_cut(fbank)
    return extractor.normalize(fbank)


def _pixel_values(processor: CavMaeProcessor, frames: list[bytes], shares: tuple[float, ...]) -> np.ndarray:
    images = [_to_pixel_values(processor.image_processor, frame) for frame in frames]
    if len(images) == 1:
        return images[0]
    return np.float32(shares[0]) * images[0] + np.float32(shares[1]) * images[1]


def _to_pixel_values(image_processor: CavMaeImageProcessor, frame: bytes) -> np.ndarray:
    image = decode_frame(frame)
    if image.size != (image_processor.image_size, image_processor.image_size):
        image = image_processor.resize_and_crop(image)
    return image_processor.to_pixel_values(image)
