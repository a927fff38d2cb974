"""Configuration of an audio and a visual encoder of transformers, joined by a small fusion transformer."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

VGGSOUND_CLASSES = 309
MODALITIES = ("audio", "visual")
DEFAULT_ENCODERS = {"audio_config": "audio-spectrogram-transformer", "vision_config": "vit"}
HEAD_WIDTH = 64
# What no model is: a file that says so would have terabytes allocated.
MAX_PARAMETERS, MAX_LABELS = 10**10, 10**6
MAX_SIZES = {"image_size": 2**14, "max_length": 2**18, "num_mel_bins": 2**12, "num_channels": 2**4}
MAX_SIZES |= dict.fromkeys(("num_hidden_layers", "depths", "fusion_depth"), 2**10)
# Of an encoder; what a kind of encoder does not have is not asked of it.
SIZES = (*MAX_SIZES, "hidden_size", "num_attention_heads", "patch_size", "embed_dim")
SIZES += ("hidden_sizes", "patch_sizes", "strides", "num_heads", "intermediate_size", "mlp_ratio", "mlp_ratios")
SIZES += ("frequency_stride", "time_stride", "window_size", "sr_ratios")
# What a backbone would return by stage: of no use here, and wrong as soon as another depth is asked for.
BACKBONE_FIELDS = ("out_features", "out_indices", "_out_features", "_out_indices", "stage_names")

# AST and ViT of the sizes of DeiT (Touvron et al., 2021), with patches of 16 x 16 side by side, as CAV-MAE has them.
PRESETS: dict[str, dict[str, Any]] = {
    f"ast-vit-{name}": {
        "audio_config": {
            "model_type": "audio-spectrogram-transformer",
            "hidden_size": width,
            "num_attention_heads": width // HEAD_WIDTH,
            "intermediate_size": 4 * width,
            "frequency_stride": 16,
            "time_stride": 16,
        },
        "vision_config": {
            "model_type": "vit",
            "hidden_size": width,
            "num_attention_heads": width // HEAD_WIDTH,
            "intermediate_size": 4 * width,
        },
    }
    for name, width in (("base", 768), ("small", 384), ("tiny", 192))
}

# Tokens before those of the patches, registers not counted: a class token, and a distillation token of AST and DeiT.
AUDIO_PREFIX_TOKENS = {"audio-spectrogram-transformer": 2}
PATCH_PREFIX_TOKENS = {"vit": 1, "deit": 2, "beit": 1, "dinov2": 1, "dinov2_with_registers": 1, "dinov3_vit": 1}


def _halved_up(config: Any, side: int) -> int:
    """Swin pads the picture to whole patches, and the map to an even side before each merging."""
    side = -(-side // _square(config.patch_size))
    for _ in config.depths[1:]:
        side = -(-side // 2)
    return side


def _strided(config: Any, side: int) -> int:
    """PVTv2's overlapping patches are padded by half their side."""
    for patch, stride in zip(config.patch_sizes, config.strides, strict=True):
        side = (side + 2 * (patch // 2) - patch) // stride + 1
    return side


# Encoders with stages: side of the last feature map, which has no prefix tokens.
LAST_STAGE: dict[str, Callable[[Any, int], int]] = {
    "swin": _halved_up,
    "swinv2": _halved_up,
    "pvt_v2": _strided,
}


@strict
class AudioVisualEncoderConfig(PreTrainedConfig):
    r"""
    Configuration of an [`AudioVisualEncoderModel`] or an [`AudioVisualEncoderForAudioVisualClassification`].

    Args:
        audio_config (`PreTrainedConfig` or `dict`, *optional*, defaults to that of AST):
            Of an encoder of spectrograms. A dict names its `model_type`; known is `audio-spectrogram-transformer`.
        vision_config (`PreTrainedConfig` or `dict`, *optional*, defaults to that of ViT-B/16):
            Of an encoder of pictures: `vit`, `deit`, `beit`, `dinov2`, `dinov2_with_registers`, `dinov3_vit`, `swin`,
            `swinv2` or `pvt_v2`. Those with stages give the tokens of their last one.
        image_size (`int`, *optional*, defaults to the vision encoder's):
            Side of the square picture in pixels. Another size than the encoder's own, such as 224 for DINOv2's 518,
            interpolates its position embeddings.
        fusion_hidden_size (`int`, *optional*, defaults to the width of the wider encoder):
            Width of the fusion tokens.
        fusion_num_attention_heads (`int`, *optional*, defaults to one for each 64 of the width):
            Attention heads of the fusion layers.
        fusion_depth (`int`, *optional*, defaults to 2):
            Layers that see both modalities. CAV-MAE has one; how many are best here is open.
        fusion_mlp_ratio (`float`, *optional*, defaults to 4.0):
            Width of the fusion layers' feed-forward part over `fusion_hidden_size`.
        fusion_layer_norm_eps (`float`, *optional*, defaults to 1e-06):
            Epsilon of the fusion layers' norms.
        modalities (`list[str]`, *optional*, defaults to `["audio", "visual"]`):
            What the model hears and sees. With one of the two it has no encoder for the other and takes no input of
            it; its fusion tokens are those of the one modality. The other encoder's configuration stays, unused.
        num_labels (`int`, *optional*, defaults to 309):
            Number of classes, named `LABEL_0`, `LABEL_1`, ... unless `id2label` is given.

    Raises:
        `ValueError`: if the grid of an encoder's tokens is not known, or sizes do not fit together.

    Example:

    ```python
    >>> from hf_emktd import AudioVisualEncoderConfig
    >>> from transformers import Dinov2Config

    >>> config = AudioVisualEncoderConfig(vision_config=Dinov2Config(image_size=224))
    >>> config.audio_grid, config.visual_grid, config.fusion_hidden_size
    ((12, 101), (16, 16), 768)
    ```"""

    model_type = "audio_visual_encoder"
    task: ClassVar[str] = "audio-visual-classification"
    sub_configs: ClassVar[dict[str, type]] = {"audio_config": AutoConfig, "vision_config": AutoConfig}
    # Trainer's evaluation gathers whatever is not listed here; tokens would be gigabytes.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "pooler_output",
        "audio_tokens",
        "visual_tokens",
        "fusion_tokens",
    ]

    audio_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    image_size: int | None = None
    fusion_hidden_size: int | None = None
    fusion_num_attention_heads: int | None = None
    fusion_depth: int = 2
    fusion_mlp_ratio: float | int = 4.0
    fusion_layer_norm_eps: float = 1e-6
    modalities: list[str] | tuple[str, ...] = MODALITIES

    def __post_init__(self, **kwargs: Any) -> None:
        for name in DEFAULT_ENCODERS:
            setattr(self, name, _encoder_config(name, getattr(self, name)))
        self._check_encoders()
        if isinstance(self.modalities, list | tuple):  # JSON has no tuples
            self.modalities = tuple(sorted(self.modalities))
        if self.image_size is None:
            self.image_size = _square(self.vision_config.image_size)
        if self.fusion_hidden_size is None:
            self.fusion_hidden_size = max(_width(self.audio_config), _width(self.vision_config))
        if self.fusion_num_attention_heads is None:
            self.fusion_num_attention_heads = max(1, self.fusion_hidden_size // HEAD_WIDTH)
        if self.id2label is None and (kwargs.setdefault("num_labels", VGGSOUND_CLASSES) or 0) > MAX_LABELS:
            raise ValueError(f"num_labels must be at most {MAX_LABELS:,} but is {kwargs['num_labels']:,}.")
        super().__post_init__(**kwargs)
        self.label2id = {label: index for index, label in self.id2label.items()}

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """
        Builds the configuration of a named size.

        Args:
            name (`str`):
                `"ast-vit-base"` (width 768), `"ast-vit-small"` (384) or `"ast-vit-tiny"` (192).
            overrides:
                Any field of the configuration, on top of the preset.

        Raises:
            `ValueError`: if `name` is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r} of two encoders; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def audio_length(self) -> int:
        """Spectrogram frames (of 10 ms) that the audio encoder takes."""
        return self.audio_config.max_length

    @property
    def num_mel_bins(self) -> int:
        """Mel bins of the spectrogram."""
        return self.audio_config.num_mel_bins

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Audio tokens as (frequency, time); tokens run through time first: index = f * time + t."""
        audio = self.audio_config
        return (
            (audio.num_mel_bins - audio.patch_size) // audio.frequency_stride + 1,
            (audio.max_length - audio.patch_size) // audio.time_stride + 1,
        )

    @property
    def visual_grid(self) -> tuple[int, int]:
        """Visual tokens as (rows, columns); tokens run through columns first."""
        vision = self.vision_config
        if vision.model_type in LAST_STAGE:
            side = LAST_STAGE[vision.model_type](vision, self.image_size)
        else:
            side = self.image_size // _square(vision.patch_size)
        return side, side

    @property
    def prefix_tokens(self) -> dict[str, int]:
        """By modality how many tokens its encoder returns before those on the grid: class tokens, registers."""
        vision = self.vision_config
        visual = PATCH_PREFIX_TOKENS.get(vision.model_type, 0) + getattr(vision, "num_register_tokens", 0)
        return {"audio": AUDIO_PREFIX_TOKENS[self.audio_config.model_type], "visual": visual}

    @property
    def branch_grids(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Grids that the tokens of each branch lie on, in the order of the tokens; sound first in fusion."""
        grids = {"audio": self.audio_grid, "visual": self.visual_grid}
        own = {modality: (grids[modality],) for modality in self.modalities}
        return {**own, "fusion": tuple(grids[modality] for modality in self.modalities)}

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input that the model takes for one clip, without the batch."""
        shapes = {
            "audio": ("input_values", (self.audio_length, self.num_mel_bins)),
            "visual": ("pixel_values", (3, self.image_size, self.image_size)),
        }
        return dict(shapes[modality] for modality in self.modalities)

    @property
    def branch_widths(self) -> dict[str, int]:
        """Width of the tokens of each branch."""
        widths = {"audio": _width(self.audio_config), "visual": _width(self.vision_config)}
        return {**{modality: widths[modality] for modality in self.modalities}, "fusion": self.fusion_hidden_size}

    @property
    def freezable_parts(self) -> dict[str, str]:
        """By public name, the prefix of the parameters inside a model with a head."""
        return {f"{modality}_encoder": f"audio_visual_encoder.{modality}_encoder." for modality in self.modalities}

    def to_diff_dict(self) -> dict[str, Any]:
        """
        What is saved. Both encoders whole: defaults of another version must not change them. Two unnamed labels, the
        base class's default and so left out by it, are kept: ours is 309.
        """
        encoders = {name: getattr(self, name).to_dict() for name in DEFAULT_ENCODERS}
        return {**super().to_diff_dict(), **encoders, "id2label": dict(self.id2label), "label2id": dict(self.label2id)}

    def validate_architecture(self) -> None:
        """Part of `@strict`: called after construction, raises if the sizes do not fit together."""
        for name in ("fusion_hidden_size", "fusion_num_attention_heads", "fusion_depth", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but is {getattr(self, name)}.")
        self._validate_extent()
        if self.fusion_hidden_size % self.fusion_num_attention_heads:
            raise ValueError(
                f"fusion_hidden_size {self.fusion_hidden_size} is not divisible by fusion_num_attention_heads "
                f"{self.fusion_num_attention_heads}; heads of width 64 are usual."
            )
        if self.modalities not in (MODALITIES, *((modality,) for modality in MODALITIES)):
            raise ValueError(f"modalities must name audio, visual or both, once each, but is {list(self.modalities)}.")
        for branch, grids in self.branch_grids.items():
            if min(side for grid in grids for side in grid) < 1:
                raise ValueError(f"the input of the {branch} branch is smaller than one patch; its grid is {grids}.")

    def _check_encoders(self) -> None:
        known = {
            "audio_config": AUDIO_PREFIX_TOKENS,
            "vision_config": {**PATCH_PREFIX_TOKENS, **LAST_STAGE},
        }
        for name, types in known.items():
            model_type = getattr(self, name).model_type
            if model_type not in types:
                raise ValueError(
                    f"{name}: on which grid the tokens of a {model_type!r} lie cannot be derived; known are "
                    f"{', '.join(types)}. Take one of them, or add its rule to configuration_audio_visual_encoder.py."
                )
            _check_sizes(name, getattr(self, name))

    def _validate_extent(self) -> None:
        for name in ("image_size", "fusion_depth"):
            if getattr(self, name) > MAX_SIZES[name]:
                raise ValueError(f"{name} must be at most {MAX_SIZES[name]:,} but is {getattr(self, name):,}.")
        if not 0 < self.fusion_mlp_ratio < math.inf:
            raise ValueError(f"fusion_mlp_ratio must be positive and finite but is {self.fusion_mlp_ratio}.")
        fusion = self.fusion_hidden_size * (
            self.fusion_depth * self.fusion_hidden_size * (4 + 2 * self.fusion_mlp_ratio) + self.num_labels
        )
        parameters = fusion + _rough_parameters(self.audio_config) + _rough_parameters(self.vision_config)
        if parameters > MAX_PARAMETERS:
            raise ValueError(
                f"the widths and depths of the encoders and of their fusion make about {parameters:.1e} parameters; "
                f"more than {MAX_PARAMETERS:.0e} are refused. Check config.json."
            )


def _encoder_config(name: str, config: Any) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    fields = {key: value for key, value in (config or {}).items() if key not in BACKBONE_FIELDS}
    return AutoConfig.for_model(fields.pop("model_type", DEFAULT_ENCODERS[name]), **fields)


def _width(config: PreTrainedConfig) -> int:
    """Of the last tokens; of encoders with stages the last stage's."""
    return config.hidden_sizes[-1] if config.model_type == "pvt_v2" else config.hidden_size


def _check_sizes(name: str, config: PreTrainedConfig) -> None:
    for size in SIZES:
        value, largest = getattr(config, size, None), MAX_SIZES.get(size, math.inf)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and not (0 < number <= largest and number < math.inf):
                raise ValueError(f"{name}: {size} must be positive and at most {largest:,}, got {value}.")


def _rough_parameters(config: PreTrainedConfig) -> float:
    """Of the layers of an encoder, as if all were as wide as the last."""
    width = _width(config)
    depth = sum(config.depths) if hasattr(config, "depths") else config.num_hidden_layers
    ratio = max(getattr(config, "mlp_ratios", [getattr(config, "mlp_ratio", 0)]))
    return depth * width * (4 * width + 2 * (getattr(config, "intermediate_size", None) or ratio * width))


def _square(size: int | list[int] | tuple[int, int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ValueError(f"pictures and patches must be square, got {size}; give one number.")
    return sides.pop()


__all__ = ["PRESETS", "AudioVisualEncoderConfig"]
