"""Configuration of CAV-MAE, the contrastive audio-visual masked autoencoder, as fine-tuned for classification."""

import math
from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Every preset keeps a head width of 64, as the published 768-wide model. "tiny" is the student of the EM-KTD paper.
PRESETS: dict[str, dict[str, int]] = {
    "base": {"hidden_size": 768, "num_attention_heads": 12},
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "tiny": {"hidden_size": 192, "num_attention_heads": 3},
}
VGGSOUND_CLASSES = 309
MODALITIES = ("audio", "visual")
# What no model is: a file that says so would have terabytes allocated. The published one has 1.6e8 parameters.
MAX_PARAMETERS, MAX_LABELS = 10**10, 10**6
MAX_SIZES = {
    "image_size": 2**14,
    "audio_length": 2**18,
    "num_mel_bins": 2**12,
    "modality_specific_depth": 2**10,
    "joint_depth": 2**10,
}


@strict
class CavMaeConfig(PreTrainedConfig):
    r"""
    Configuration of a [`CavMaeModel`] or a [`CavMaeForAudioVisualClassification`].

    The defaults describe the published CAV-MAE (Gong et al., 2023, https://huggingface.co/papers/2210.07839; official
    file `src/models/cav_mae.py`, class `CAVMAEFT`) fine-tuned on the 309 classes of VGGSound: 164.739 M parameters.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens, the same in all three branches. A multiple of 4 and of `num_attention_heads`.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Attention heads of every layer.
        modality_specific_depth (`int`, *optional*, defaults to 11):
            Layers of the audio branch and, separately, of the visual branch.
        joint_depth (`int`, *optional*, defaults to 1):
            Layers that see both modalities.
        mlp_ratio (`float`, *optional*, defaults to 4.0):
            Width of the feed-forward layer over `hidden_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward layer.
        layer_norm_eps (`float`, *optional*, defaults to 1e-05):
            Epsilon of the layer norms: PyTorch's default, as in the official code, not the 1e-6 usual in ViTs.
        patch_size (`int`, *optional*, defaults to 16):
            Side of the square patches of both the spectrogram and the picture.
        audio_length (`int`, *optional*, defaults to 1024):
            Spectrogram frames (of 10 ms) the model expects.
        num_mel_bins (`int`, *optional*, defaults to 128):
            Mel bins of the spectrogram.
        image_size (`int`, *optional*, defaults to 224):
            Side of the square picture in pixels.
        single_modality_mode (`str`, *optional*, defaults to `"missing"`):
            What to do when only one input is given. `"missing"` averages the joint layers' two paths, shared norms and
            modality norms, for a model trained on both modalities (official `missingaudioonly`, `missingvideoonly`);
            `"only"` uses the modality norms alone, for one fine-tuned on a single modality (official `audioonly`,
            `videoonly`). Without effect where `modalities` names one.
        modalities (`list[str]`, *optional*, defaults to `["audio", "visual"]`):
            What the model hears and sees. With one of the two it has no layers and no norms for the other and takes no
            input of it: the tokens of its own branch pass through the joint layers with their shared norms, and its
            fusion tokens are those of the one modality. The sizes of the other input stay, unused. Not in the official
            code, whose models carry both branches whatever they were fine-tuned on.
        num_labels (`int`, *optional*, defaults to 309):
            Number of classes, named `LABEL_0`, `LABEL_1`, ... unless `id2label` is given.

    Example:

    ```python
    >>> from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification

    >>> config = CavMaeConfig.from_preset("tiny", num_labels=10)
    >>> model = CavMaeForAudioVisualClassification(config)
    >>> config.audio_grid, config.visual_grid
    ((8, 64), (14, 14))
    ```"""

    model_type = "cav_mae"
    task: ClassVar[str] = "audio-visual-classification"
    # Trainer's evaluation gathers whatever is not listed here; tokens would be gigabytes.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "pooler_output",
        "audio_tokens",
        "visual_tokens",
        "fusion_tokens",
        "audio_hidden_states",
        "visual_hidden_states",
        "fusion_hidden_states",
    ]

    hidden_size: int = 768
    num_attention_heads: int = 12
    modality_specific_depth: int = 11
    joint_depth: int = 1
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    patch_size: int = 16
    audio_length: int = 1024
    num_mel_bins: int = 128
    image_size: int = 224
    single_modality_mode: Literal["missing", "only"] = "missing"
    modalities: list[str] | tuple[str, ...] = MODALITIES

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.modalities, list | tuple):  # JSON has no tuples
            self.modalities = tuple(sorted(self.modalities))
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
                `"base"` (width 768, 12 heads, 164.7 M parameters), `"small"` (384, 6, 41.7 M) or `"tiny"` (192, 3,
                10.7 M).
            overrides:
                Any field of the configuration, on top of the preset.

        Raises:
            `ValueError`: if `name` is not a preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no CAV-MAE preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Audio tokens as (frequency, time); tokens run through time first: index = f * time + t."""
        return self.num_mel_bins // self.patch_size, self.audio_length // self.patch_size

    @property
    def visual_grid(self) -> tuple[int, int]:
        """Visual tokens as (rows, columns); tokens run through columns first."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

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
        return dict.fromkeys((*self.modalities, "fusion"), self.hidden_size)

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward layer."""
        return int(self.hidden_size * self.mlp_ratio)

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved. Two unnamed labels, the base class's default and so left out by it, are kept: ours is 309."""
        return {**super().to_diff_dict(), "id2label": dict(self.id2label), "label2id": dict(self.label2id)}

    def validate_architecture(self) -> None:
        """Part of `@strict`: called after construction, raises if the sizes do not fit together."""
        for name in ("hidden_size", "num_attention_heads", "modality_specific_depth", "joint_depth", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but is {getattr(self, name)}.")
        self._validate_extent()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "CAV-MAE uses heads of width 64, e.g. hidden_size=192 with num_attention_heads=3."
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by 4, which the sine and cosine position embeddings "
                "of two axes need; choose a multiple of 4."
            )
        if self.modalities not in (MODALITIES, *((modality,) for modality in MODALITIES)):
            raise ValueError(f"modalities must name audio, visual or both, once each, but is {list(self.modalities)}.")
        for name in ("audio_length", "num_mel_bins", "image_size"):
            self._validate_patches(name)

    def _validate_extent(self) -> None:
        for name, largest in MAX_SIZES.items():
            if getattr(self, name) > largest:
                raise ValueError(f"{name} must be at most {largest:,} but is {getattr(self, name):,}.")
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"mlp_ratio must be positive and finite but is {self.mlp_ratio}.")
        depth = len(self.modalities) * self.modality_specific_depth + self.joint_depth
        parameters = self.hidden_size * (
            depth * self.hidden_size * (4 + 2 * self.mlp_ratio) + self.num_labels + 4 * self.patch_size**2
        )
        if parameters > MAX_PARAMETERS:
            raise ValueError(
                f"hidden_size {self.hidden_size:,}, depth {depth:,}, mlp_ratio {self.mlp_ratio:g} and patch_size "
                f"{self.patch_size:,} make about {parameters:.1e} parameters; more than {MAX_PARAMETERS:.0e} are "
                "refused. Check config.json."
            )

    def _validate_patches(self, name: str) -> None:
        size, patch = getattr(self, name), self.patch_size
        if size < patch or size % patch:
            nearest = max(1, round(size / patch)) * patch
            raise ValueError(f"{name} {size} is not a multiple of patch_size {patch}; use {nearest}, for example.")


__all__ = ["PRESETS", "CavMaeConfig"]
