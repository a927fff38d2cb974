"""Encoders of transformers with random weights and some thousand parameters each."""

from __future__ import annotations

from typing import Any

from transformers import (
    ASTConfig,
    BeitConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    PvtV2Config,
    SwinConfig,
    Swinv2Config,
    ViTConfig,
)

from hf_emktd import AudioVisualEncoderConfig

PLAIN = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
WITH_MLP = {**PLAIN, "intermediate_size": 32}
SWIN = {"patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 2}
PVT = {
    "hidden_sizes": [4, 8, 12, 16],
    "num_attention_heads": [1, 2, 2, 4],
    "depths": [1] * 4,
    "sr_ratios": [4, 2, 1, 1],
}

# by type, tiny configs of pictures of 16 x 16 pixels
VISION_CONFIGS: dict[str, PreTrainedConfig] = {
    config.model_type: config
    for config in (
        ViTConfig(**WITH_MLP, image_size=16, patch_size=8),
        DeiTConfig(**WITH_MLP, image_size=16, patch_size=8),
        BeitConfig(**WITH_MLP, image_size=16, patch_size=8),
        Dinov2Config(**PLAIN, mlp_ratio=2, image_size=16, patch_size=8),
        Dinov2WithRegistersConfig(**PLAIN, mlp_ratio=2, image_size=16, patch_size=8, num_register_tokens=3),
        DINOv3ViTConfig(**WITH_MLP, image_size=16, patch_size=8, num_register_tokens=2),
        SwinConfig(**SWIN, image_size=16),
        Swinv2Config(**SWIN, image_size=16),
        PvtV2Config(**PVT, image_size=16),
    )
}


def make_audio_config(**overrides: Any) -> ASTConfig:
    """Overlapping patches on 32 frames of 16 mel bins: 3 x 7 tokens."""
    sizes = {**WITH_MLP, "patch_size": 8, "frequency_stride": 4, "time_stride": 4}
    return ASTConfig(**{**sizes, "max_length": 32, "num_mel_bins": 16, **overrides})


def make_config(vision: str = "dinov2", **overrides: Any) -> AudioVisualEncoderConfig:
    """AST and one of `VISION_CONFIGS`, five classes."""
    fields = {"audio_config": make_audio_config(), "vision_config": VISION_CONFIGS[vision].to_dict()}
    fusion = {"fusion_hidden_size": 24, "fusion_num_attention_heads": 2, "fusion_depth": 1}
    classes = {} if "id2label" in overrides else {"num_labels": 5}
    return AudioVisualEncoderConfig(**{**fields, **fusion, **classes, **overrides})
