"""What a run needs to know of an architecture beside the Auto classes: presets, processors, default students."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedConfig, ProcessorMixin, SequenceFeatureExtractor
from transformers.image_processing_utils import BaseImageProcessor

from ..models.audio_visual_encoder import AudioVisualEncoderConfig, AudioVisualEncoderForAudioVisualClassification
from ..models.audio_visual_encoder.configuration_audio_visual_encoder import PRESETS as AUDIO_VISUAL_ENCODER_PRESETS
from ..models.avsegformer import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation, AvSegFormerProcessor
from ..models.avsegformer.configuration_avsegformer import PRESETS as AVSEGFORMER_PRESETS
from ..models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from ..models.cav_mae.configuration_cav_mae import PRESETS as CAV_MAE_PRESETS


class Family(ABC):
    """
    One architecture.

    Class attributes:

    - **config_class**, **model_class**, **processor_class** -- Its classes.
    - **presets** (`Mapping[str, dict]`) -- Config fields of each named size.
    - **default_preset** (`str`) -- Size of a teacher from scratch.
    - **inherited_parts** (`tuple[str, ...]`) -- Parts that a student takes from its teacher, frozen, unless told
      otherwise; of `config_class.freezable_parts`.
    - **unsliced_sizes** (`tuple[str, ...]` or `None`) -- Config fields that a student which starts from slices of its
      teacher's weights must share with it; `None` where weights cannot be sliced.
    - **trained_whole** (`tuple[str, ...]`) -- Modules that LoRA trains whole and saves with its adapters: what starts
      from random weights, or knows the classes.
    """

    config_class: ClassVar[type]
    model_class: ClassVar[type]
    processor_class: ClassVar[type]
    presets: ClassVar[Mapping[str, dict[str, Any]]]
    default_preset: ClassVar[str]
    inherited_parts: ClassVar[tuple[str, ...]] = ()
    unsliced_sizes: ClassVar[tuple[str, ...] | None]
    trained_whole: ClassVar[tuple[str, ...]]

    def preset_for(self, name: str, teacher: Any) -> dict[str, Any]:
        """Config fields of a named size, with the inputs and classes of `teacher`, which may be of another family."""
        return dict(self.presets[name])

    @abstractmethod
    def smaller(self, teacher: Any) -> dict[str, Any]:
        """Config fields that make the default student of `teacher`."""

    @abstractmethod
    def of_modalities(self, modalities: Sequence[str]) -> dict[str, Any]:
        """
        Config fields of a model that takes these modalities, some of `audio` and `visual`, alone.

        Raises:
            ValueError: if the task needs another.
        """

    @abstractmethod
    def processor_for(self, processor: Any, config: Any) -> ProcessorMixin:
        """A processor for the input sizes of `config` that does all else as `processor` does."""

    @abstractmethod
    def check_inputs(self, student: Any, teacher: Any) -> None:
        """Raises `ValueError` if the features stored for `teacher` cannot be made into the student's inputs."""


class ClassifierFamily(Family):
    """What classifiers of a log-mel spectrogram and one frame share: CAV-MAE's processor, and how inputs are made."""

    processor_class = CavMaeProcessor

    def of_modalities(self, modalities: Sequence[str]) -> dict[str, Any]:
        return {"modalities": list(modalities)}

    def processor_for(self, processor: CavMaeProcessor, config: Any) -> CavMaeProcessor:
        sizes = {"num_mel_bins": config.num_mel_bins, "audio_length": config.audio_length}
        parts = _parts_with_sizes(processor, sizes, {"image_size": config.image_size})
        return CavMaeProcessor(*parts, config.modalities)

    def check_inputs(self, student: Any, teacher: Any) -> None:
        """The features of a run are stored for the teacher; a student's inputs are cut and shrunk from them."""
        if student.num_mel_bins != teacher.num_mel_bins:
            raise ValueError(
                f"the student hears {student.num_mel_bins} mel bins, the teacher {teacher.num_mel_bins}; one "
                f"spectrogram serves both, so give the student num_mel_bins={teacher.num_mel_bins}."
            )
        for name in ("audio_length", "image_size"):
            if getattr(student, name) > getattr(teacher, name):
                raise ValueError(
                    f"the student's {name} is {getattr(student, name)}, the teacher's {getattr(teacher, name)}: both "
                    "are made from features of the teacher's size, so the student's may be at most as large."
                )


class CavMaeFamily(ClassifierFamily):
    """CAV-MAE: a quarter of the width is the paper's student."""

    config_class = CavMaeConfig
    model_class = CavMaeForAudioVisualClassification
    presets = CAV_MAE_PRESETS
    default_preset = "base"
    unsliced_sizes = ("patch_size", "num_labels")
    trained_whole = ("classifier",)

    def preset_for(self, name: str, teacher: Any) -> dict[str, Any]:
        names = ("audio_length", "num_mel_bins", "image_size", "modalities", "id2label")
        return {**self.presets[name], **{name: getattr(teacher, name) for name in names}}

    def smaller(self, teacher: CavMaeConfig) -> dict[str, Any]:
        heads = max(1, teacher.num_attention_heads // 4)
        step = math.lcm(4, heads)  # what CavMaeConfig asks of a width
        return {"hidden_size": max(step, teacher.hidden_size // 4 // step * step), "num_attention_heads": heads}


class AudioVisualEncoderFamily(ClassifierFamily):
    """Two encoders of transformers and their fusion: a quarter of all widths and heads, in the teacher's depths."""

    config_class = AudioVisualEncoderConfig
    model_class = AudioVisualEncoderForAudioVisualClassification
    presets = AUDIO_VISUAL_ENCODER_PRESETS
    default_preset = "ast-vit-base"
    unsliced_sizes = None
    trained_whole = ("classifier", "fusion")

    def preset_for(self, name: str, teacher: Any) -> dict[str, Any]:
        preset, picture = self.presets[name], {"image_size": teacher.image_size}
        sound = {"max_length": teacher.audio_length, "num_mel_bins": teacher.num_mel_bins}
        return {
            "audio_config": {**preset["audio_config"], **sound},
            "vision_config": {**preset["vision_config"], **picture},
            **picture,
            "fusion_hidden_size": None,
            "fusion_num_attention_heads": None,
            "modalities": teacher.modalities,
            "id2label": teacher.id2label,
        }

    def smaller(self, teacher: AudioVisualEncoderConfig) -> dict[str, Any]:
        encoders = {name: getattr(teacher, name) for name in ("audio_config", "vision_config")}
        narrowed = {name: {**encoder.to_dict(), **_quarter_of(encoder)} for name, encoder in encoders.items()}
        width, heads = _quarter(teacher.fusion_hidden_size, teacher.fusion_num_attention_heads)
        return {**narrowed, "fusion_hidden_size": width, "fusion_num_attention_heads": heads}


class AvSegFormerFamily(Family):
    """
    AVSegFormer: half the widths of the visual encoder in two layers a stage, which makes PVTv2-b0 of b5, the paper's
    student, beside the teacher's own frozen VGGish.
    """

    config_class = AvSegFormerConfig
    model_class = AvSegFormerForAudioVisualSegmentation
    processor_class = AvSegFormerProcessor
    presets = AVSEGFORMER_PRESETS
    default_preset = "b5"
    inherited_parts = ("audio_encoder",)
    # the head mixes its channels in groups, heads and points, and the sound encoder flattens a map of its own
    unsliced_sizes = (
        "hidden_size",
        "num_attention_heads",
        "num_points",
        "norm_groups",
        "audio_channels",
        "vision_sr_ratios",
    )
    trained_whole = ("mask_head",)

    def smaller(self, teacher: AvSegFormerConfig) -> dict[str, Any]:
        pairs = zip(teacher.vision_hidden_sizes, teacher.vision_num_attention_heads, strict=True)
        return {
            "vision_hidden_sizes": [max(1, width // (2 * heads)) * heads for width, heads in pairs],
            "vision_depths": [min(2, depth) for depth in teacher.vision_depths],
            "vision_mlp_ratios": list(AVSEGFORMER_PRESETS["b0"]["vision_mlp_ratios"]),
        }

    def of_modalities(self, modalities: Sequence[str]) -> dict[str, Any]:
        if set(modalities) != {"audio", "visual"}:
            raise ValueError(
                f"a student of {', '.join(modalities)} alone cannot mark in the picture what sounds; masks need both "
                "modalities."
            )
        return {}

    def processor_for(self, processor: AvSegFormerProcessor, config: AvSegFormerConfig) -> AvSegFormerProcessor:
        sizes = {"num_frames": config.num_frames}
        return AvSegFormerProcessor(*_parts_with_sizes(processor, sizes, {"image_size": config.image_size}))

    def check_inputs(self, student: AvSegFormerConfig, teacher: AvSegFormerConfig) -> None:
        """Frames are stored as they are on disk, so any picture size will do; their number is one for both."""
        if student.num_frames != teacher.num_frames:
            raise ValueError(
                f"the student takes {student.num_frames} frames of a clip, the teacher {teacher.num_frames}; give the "
                f"student num_frames={teacher.num_frames}."
            )


FAMILIES: dict[str, Family] = {
    family.config_class.model_type: family
    for family in (CavMaeFamily(), AvSegFormerFamily(), AudioVisualEncoderFamily())
}


def family_of(config: PreTrainedConfig) -> Family:
    """
    The family of a model's config.

    Raises:
        ValueError: if it is none of ours.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"a model of type {config.model_type!r} is none of {', '.join(FAMILIES)}.")
    return FAMILIES[config.model_type]


def family_for(task: str) -> Family:
    """The family that learns `task` when no model is named."""
    return families_for(task)[0]


def families_for(task: str) -> list[Family]:
    """All families that learn `task`."""
    return [family for family in FAMILIES.values() if family.config_class.task == task]


def _parts_with_sizes(
    processor: Any, audio_sizes: dict[str, int], visual_sizes: dict[str, int]
) -> tuple[SequenceFeatureExtractor, BaseImageProcessor]:
    extractor, image_processor = processor.feature_extractor, processor.image_processor
    return (
        type(extractor).from_dict(extractor.to_dict() | audio_sizes),
        type(image_processor).from_dict(image_processor.to_dict() | visual_sizes),
    )


def _quarter_of(encoder: PreTrainedConfig) -> dict[str, Any]:
    """Fields that make an encoder of transformers a quarter as wide, in every stage."""
    if encoder.model_type in ("swin", "swinv2"):  # widths double from stage to stage
        heads = [max(1, count // 4) for count in encoder.num_heads]
        width, _ = _quarter(encoder.embed_dim, 4 * math.lcm(*heads))
        return {"embed_dim": width, "num_heads": heads, "hidden_size": width * 2 ** (len(heads) - 1)}
    if encoder.model_type == "pvt_v2":
        sizes = map(_quarter, encoder.hidden_sizes, encoder.num_attention_heads)
        widths, heads = zip(*sizes, strict=True)
        return {"hidden_sizes": list(widths), "num_attention_heads": list(heads)}
    width, heads = _quarter(encoder.hidden_size, encoder.num_attention_heads)
    inner = (
        {"intermediate_size": max(1, encoder.intermediate_size // 4)} if hasattr(encoder, "intermediate_size") else {}
    )
    return {"hidden_size": width, "num_attention_heads": heads, **inner}


def _quarter(width: int, heads: int) -> tuple[int, int]:
    """A quarter of the heads and of the width, which they divide."""
    heads = max(1, heads // 4)
    return max(heads, width // 4 // heads * heads), heads
