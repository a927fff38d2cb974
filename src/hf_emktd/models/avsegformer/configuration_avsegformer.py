"""Configuration of AVSegFormer, sound-guided segmentation with a PVTv2 picture encoder and a VGGish sound encoder."""

import math
from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Sizes of PVTv2 (Wang et al., 2022, https://huggingface.co/papers/2106.13797); the head is the same for all.
PRESETS: dict[str, dict[str, list[int]]] = {
    name: {"vision_hidden_sizes": widths, "vision_depths": depths, "vision_mlp_ratios": ratios}
    for name, widths, depths, ratios in (
        ("b0", [32, 64, 160, 256], [2, 2, 2, 2], [8, 8, 4, 4]),
        ("b1", [64, 128, 320, 512], [2, 2, 2, 2], [8, 8, 4, 4]),
        ("b2", [64, 128, 320, 512], [3, 4, 6, 3], [8, 8, 4, 4]),
        ("b3", [64, 128, 320, 512], [3, 4, 18, 3], [8, 8, 4, 4]),
        ("b4", [64, 128, 320, 512], [3, 8, 27, 3], [8, 8, 4, 4]),
        ("b5", [64, 128, 320, 512], [3, 6, 40, 3], [4, 4, 4, 4]),
    )
}

# One VGGish example: 96 spectrogram frames of 10 ms, 64 mel bands.
EXAMPLE_FRAMES = 96
MEL_BANDS = 64
# The picture encoder halves the picture five times; masks are predicted from a quarter of its side.
COARSEST_STRIDE = 32
# Where the sound encoder pools: after these of its six convolutions.
POOLED_CONVOLUTIONS = (0, 1, 3, 5)

# What no model is: a file that says so would have terabytes allocated. The published one has 1.9e8 parameters.
MAX_PARAMETERS = 10**10
MAX_SIZES = {"image_size": 2**14, "num_frames": 2**12, "num_queries": 2**16, "num_points": 2**8}
MAX_SIZES |= dict.fromkeys(("encoder_layers", "decoder_layers", "query_layers", "vision_depths"), 2**10)

Sizes = list[int] | tuple[int, ...]


@strict
class AvSegFormerConfig(PreTrainedConfig):
    r"""
    Configuration of an [`AvSegFormerModel`] or an [`AvSegFormerForAudioVisualSegmentation`].

    The defaults describe the published AVSegFormer (Gao et al., 2024, https://huggingface.co/papers/2307.01146;
    official configuration `config/s4/AVSegFormer_pvt2_s4.py`) with PVTv2-b5 on pictures of 512 x 512.

    Args:
        vision_hidden_sizes, vision_depths, vision_num_attention_heads (`list[int]`, *optional*):
            Width, number of blocks and attention heads of each of the four stages of PVTv2; default to b5's.
        vision_mlp_ratios (`list[int]`, *optional*, defaults to `[4, 4, 4, 4]`):
            Width of the feed-forward layer over the stage's width.
        vision_sr_ratios (`list[int]`, *optional*, defaults to `[8, 4, 2, 1]`):
            By how much a stage's attention reduces the side of its keys and values.
        vision_drop_path_rate (`float`, *optional*, defaults to 0.1):
            Probability of skipping the last block in training; it rises linearly from 0 at the first.
        audio_channels (`list[int]`, *optional*, defaults to `[64, 128, 256, 256, 512, 512]`):
            Widths of the six convolutions of VGGish.
        audio_hidden_size (`int`, *optional*, defaults to 4096):
            Width of its two hidden layers: 72.1 M parameters in all, or 18.3 M with 1024.
        audio_embedding_size (`int`, *optional*, defaults to 128):
            Width of its result, one vector per frame.
        hidden_size (`int`, *optional*, defaults to 256):
            Width of the head: of its queries, its encoder and the mask feature. The last convolutions, 128 and 32
            channels in the official code, are half and an eighth of it.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of every layer of the head.
        encoder_layers, decoder_layers, query_layers (`int`, *optional*, default to 6):
            Deformable layers over the picture; layers in which queries read it; layers in which queries hear the
            sound.
        num_queries (`int`, *optional*, defaults to 300):
            Queries per frame.
        feed_forward_size, query_feed_forward_size (`int`, *optional*, default to 2048 and 1024):
            Widths of the feed-forward layers of encoder and decoder, and of the query layers.
        mask_mlp_size (`int`, *optional*, defaults to 2048):
            Width of the two hidden layers that turn the queries' maps into one feature map. Their cost, that of the
            largest matrix product of the model, grows with its square and with the picture's area.
        dropout (`float`, *optional*, defaults to 0.1):
            Dropout in encoder and decoder.
        num_points (`int`, *optional*, defaults to 4):
            Places that a head of the deformable attention looks at, in each of three stages.
        norm_groups (`int`, *optional*, defaults to 32):
            Groups of the group norms; divides `hidden_size`.
        image_size (`int`, *optional*, defaults to 512):
            Side of the square picture in pixels, a multiple of 32. The official code resizes to 512 although its
            configuration names 224; other published work on AVSBench, UFE-AVS included, uses 224.
        num_frames (`int`, *optional*, defaults to 5):
            Frames of a clip, one a second, that processors make. The model itself takes any number.
        audio_token_layer (`str`, *optional*, defaults to `"convolution"`):
            What `audio_tokens` are. `"convolution"`: the last convolutional map of VGGish, 24 tokens a frame on a
            grid of 4 frequencies x 6 times, frequency first as in CAV-MAE. `"embedding"`: its result, and
            `"projection"`: that after the linear layer to `hidden_size`; both a single token a frame, so that the Gram
            matrix of a clip says only how alike its seconds sound. If teacher and student share one frozen VGGish, the
            first two are equal by construction and distil nothing.
        visual_token_stage (`int`, *optional*, defaults to 4):
            What `visual_tokens` are: the normalised output map of stage 3 (an eighth of the mask's area each) or 4.
        fusion_token_source (`str`, *optional*, defaults to `"mask_feature"`):
            What `fusion_tokens` are. `"mask_feature"`: the map that the sound has gated, averaged to the grid of stage
            3; it lies on the picture, so two models trained apart can be compared place by place. `"queries"`: the
            decoder's queries; their order is learnt and arbitrary, so compare only models that share it. The
            encoder's output is no choice, since no sound has reached it.
        mask_loss (`str`, *optional*, defaults to `"dice"`):
            Loss of the mask, `"dice"` (official), `"bce"` or `"dice_bce"`, their sum.
        auxiliary_weight (`float`, *optional*, defaults to 0.1):
            Weight of the same loss on the channel mean of the mask feature.

    Example:

    ```python
    >>> from hf_emktd import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation

    >>> config = AvSegFormerConfig.from_preset("b0", image_size=224)
    >>> model = AvSegFormerForAudioVisualSegmentation(config)
    >>> config.branch_grids["visual"]
    ((7, 7), (7, 7), (7, 7), (7, 7), (7, 7))
    ```"""

    model_type = "avsegformer"
    task: ClassVar[str] = "audio-visual-segmentation"
    # By public name, the prefix of the parameters inside a model with a head.
    freezable_parts: ClassVar[dict[str, str]] = {
        "audio_encoder": "avsegformer.audio_encoder.",
        "visual_encoder": "avsegformer.visual_encoder.",
    }
    # Trainer's evaluation gathers whatever is not listed here; maps and tokens would be gigabytes.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "mask_features",
        "audio_tokens",
        "visual_tokens",
        "fusion_tokens",
        "stage_embeddings",
        "stage_maps",
    ]

    vision_hidden_sizes: Sizes = (64, 128, 320, 512)
    vision_depths: Sizes = (3, 6, 40, 3)
    vision_num_attention_heads: Sizes = (1, 2, 5, 8)
    vision_mlp_ratios: Sizes = (4, 4, 4, 4)
    vision_sr_ratios: Sizes = (8, 4, 2, 1)
    vision_drop_path_rate: float | int = 0.1
    audio_channels: Sizes = (64, 128, 256, 256, 512, 512)
    audio_hidden_size: int = 4096
    audio_embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    query_layers: int = 6
    num_queries: int = 300
    feed_forward_size: int = 2048
    query_feed_forward_size: int = 1024
    mask_mlp_size: int = 2048
    dropout: float | int = 0.1
    num_points: int = 4
    norm_groups: int = 32
    image_size: int = 512
    num_frames: int = 5
    audio_token_layer: Literal["convolution", "embedding", "projection"] = "convolution"
    visual_token_stage: Literal[3, 4] = 4
    fusion_token_source: Literal["mask_feature", "queries"] = "mask_feature"
    mask_loss: Literal["dice", "bce", "dice_bce"] = "dice"
    auxiliary_weight: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.id2label is None:
            self.id2label = {0: "sounding"}
        super().__post_init__(**kwargs)
        self.label2id = {label: index for index, label in self.id2label.items()}

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """
        Builds the configuration with a named picture encoder; the head stays as published.

        Args:
            name (`str`):
                Size of PVTv2: `"b0"` (3.4 M parameters), `"b1"`, `"b2"`, `"b3"`, `"b4"` or `"b5"` (81.4 M).
            overrides:
                Any field of the configuration, on top of the preset.

        Raises:
            `ValueError`: if `name` is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no AVSegFormer preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Frequencies and times of the sound encoder's last convolutional map."""
        reduction = 2 ** len(POOLED_CONVOLUTIONS)
        return MEL_BANDS // reduction, EXAMPLE_FRAMES // reduction

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input of the model for one clip, without the batch."""
        return {
            "input_values": (self.num_frames, EXAMPLE_FRAMES, MEL_BANDS),
            "pixel_values": (self.num_frames, 3, self.image_size, self.image_size),
        }

    @property
    def branch_grids(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Grids that the tokens of each branch lie on, one a frame, in the order of the tokens."""
        fusion = (1, self.num_queries) if self.fusion_token_source == "queries" else self.stage_grid(3)
        grids = {
            "audio": self.audio_grid if self.audio_token_layer == "convolution" else (1, 1),
            "visual": self.stage_grid(self.visual_token_stage),
            "fusion": fusion,
        }
        return {branch: (grid,) * self.num_frames for branch, grid in grids.items()}

    @property
    def branch_widths(self) -> dict[str, int]:
        """Width of the tokens of each branch."""
        audio = {
            "convolution": self.audio_channels[-1],
            "embedding": self.audio_embedding_size,
            "projection": self.hidden_size,
        }
        return {
            "audio": audio[self.audio_token_layer],
            "visual": self.vision_hidden_sizes[self.visual_token_stage - 1],
            "fusion": self.hidden_size,
        }

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage of the picture encoder."""
        return tuple(self.vision_hidden_sizes)

    @property
    def mask_grid(self) -> tuple[int, int]:
        """Rows and columns of the mask feature, the finest that the model knows of a mask."""
        return self.stage_grid(1)

    def stage_grid(self, stage: int) -> tuple[int, int]:
        """Rows and columns of the map of a stage of the picture encoder, counted from 1."""
        side = self.image_size // 2 ** (stage + 1)
        return side, side

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved, the name of the one class included."""
        return {**super().to_diff_dict(), "id2label": dict(self.id2label), "label2id": dict(self.label2id)}

    def validate_architecture(self) -> None:
        """Part of `@strict`: called after construction, raises if the sizes do not fit together."""
        self._validate_lists()
        self._validate_ranges()
        self._validate_extent()
        for name in ("num_attention_heads", "norm_groups"):
            self._validate_division("hidden_size", self.hidden_size, name, getattr(self, name))
        if self.hidden_size % 8:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by 8, which the sine position encoding of two axes "
                "and the last convolutions, an eighth as wide, need; choose a multiple of 8."
            )
        if self.image_size < COARSEST_STRIDE or self.image_size % COARSEST_STRIDE:
            nearest = max(1, round(self.image_size / COARSEST_STRIDE)) * COARSEST_STRIDE
            raise ValueError(f"image_size {self.image_size} is not a multiple of 32; use {nearest}, for example.")
        if self.id2label is not None and len(self.id2label) != 1:
            raise ValueError(
                f"AVSegFormer predicts one mask, of what sounds, but {len(self.id2label)} labels were given; pass one "
                "name in id2label or none."
            )

    def _validate_lists(self) -> None:
        vision = ("hidden_sizes", "depths", "num_attention_heads", "mlp_ratios", "sr_ratios")
        for name, length in {**{f"vision_{part}": 4 for part in vision}, "audio_channels": 6}.items():
            sizes = getattr(self, name)
            if len(sizes) != length or not 0 < min(sizes) <= max(sizes) < math.inf:
                raise ValueError(f"{name} must be {length} positive numbers but is {list(sizes)}.")
        stages = zip(self.vision_hidden_sizes, self.vision_num_attention_heads, strict=True)
        for stage, (width, heads) in enumerate(stages):
            self._validate_division(
                f"vision_hidden_sizes[{stage}]", width, f"vision_num_attention_heads[{stage}]", heads
            )

    def _validate_ranges(self) -> None:
        sizes = ("audio_hidden_size", "audio_embedding_size", "hidden_size", "num_attention_heads", "encoder_layers")
        sizes += ("decoder_layers", "query_layers", "num_queries", "feed_forward_size", "query_feed_forward_size")
        for name in (*sizes, "mask_mlp_size", "num_points", "norm_groups", "num_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but is {getattr(self, name)}.")
        for name in ("dropout", "vision_drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1 but is {getattr(self, name)}.")
        if self.auxiliary_weight < 0:
            raise ValueError(f"auxiliary_weight must not be negative but is {self.auxiliary_weight}.")

    def _validate_extent(self) -> None:
        for name, largest in MAX_SIZES.items():
            value = getattr(self, name)
            if (value if isinstance(value, int) else max(value)) > largest:
                raise ValueError(f"{name} must be at most {largest:,} but is {value}.")
        if self._rough_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"the widths and depths make about {self._rough_parameters:.1e} parameters; more than "
                f"{MAX_PARAMETERS:.0e} are refused. Check config.json."
            )

    @property
    def _rough_parameters(self) -> float:
        """Of the large matrices, as a bound from below."""
        stages = zip(self.vision_hidden_sizes, self.vision_depths, self.vision_mlp_ratios, strict=True)
        vision = sum(depth * width**2 * (3 + 2 * ratio) for width, depth, ratio in stages)
        audio = 9 * sum(width**2 for width in self.audio_channels)
        audio += self.audio_hidden_size * (math.prod(self.audio_grid) * self.audio_channels[-1])
        audio += self.audio_hidden_size * (self.audio_hidden_size + self.audio_embedding_size)
        width = self.hidden_size
        layers = (self.encoder_layers + self.decoder_layers) * (4 * width + 2 * self.feed_forward_size)
        layers += self.query_layers * (4 * width + 2 * self.query_feed_forward_size)
        head = self.mask_mlp_size * (self.mask_mlp_size + self.num_queries + width)
        return vision + audio + width * (layers + self.num_queries + sum(self.vision_hidden_sizes)) + head

    @staticmethod
    def _validate_division(name: str, size: int, divisor_name: str, divisor: int) -> None:
        if size % divisor:
            raise ValueError(
                f"{name} {size} is not divisible by {divisor_name} {divisor}; use {-(-size // divisor) * divisor}, "
                "for example."
            )


__all__ = ["PRESETS", "AvSegFormerConfig"]
