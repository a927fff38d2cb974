"""Sizes and grids of two encoders and their fusion."""

from __future__ import annotations

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    DeiTConfig,
    Dinov2Config,
    PvtV2Config,
    ResNetConfig,
    SwinConfig,
    Wav2Vec2Config,
)

from hf_emktd import AudioVisualEncoderConfig
from tiny_encoders import VISION_CONFIGS, make_audio_config, make_config


def test_defaults_are_the_published_sizes():
    config = AudioVisualEncoderConfig()
    assert config.audio_config.model_type == "audio-spectrogram-transformer"
    assert config.vision_config.model_type == "vit"
    assert config.input_shapes == {"input_values": (1024, 128), "pixel_values": (3, 224, 224)}
    # (128 - 16) // 10 + 1 and (1024 - 16) // 10 + 1, as the AST paper counts 12 x 101; 224 / 16
    assert config.branch_grids == {"audio": ((12, 101),), "visual": ((14, 14),), "fusion": ((12, 101), (14, 14))}
    assert config.branch_widths == {"audio": 768, "visual": 768, "fusion": 768}
    assert config.prefix_tokens == {"audio": 2, "visual": 1}
    assert (config.fusion_num_attention_heads, config.num_labels) == (12, 309)


@pytest.mark.parametrize(
    "vision, image_size, side, width",
    [
        (DeiTConfig(), None, 14, 768),
        (Dinov2Config(image_size=518), None, 37, 768),
        (Dinov2Config(image_size=518), 224, 16, 768),
        (SwinConfig(), None, 7, 768),
        (SwinConfig(), 230, 8, 768),  # 58 patches, then 29, 15 and 8
        (PvtV2Config(), None, 7, 256),
        (PvtV2Config(), 256, 8, 256),
    ],
)
def test_grids_of_published_pictures(vision, image_size, side, width):
    config = AudioVisualEncoderConfig(vision_config=vision, image_size=image_size)
    assert config.visual_grid == (side, side) and config.branch_widths["visual"] == width
    assert config.branch_grids["fusion"] == ((12, 101), (side, side))


def test_the_fusion_is_as_wide_as_the_wider_encoder():
    config = AudioVisualEncoderConfig(audio_config=make_audio_config(hidden_size=128), vision_config=PvtV2Config())
    assert (config.fusion_hidden_size, config.fusion_num_attention_heads) == (256, 4)


@pytest.mark.parametrize("name", VISION_CONFIGS)
def test_survives_saving(tmp_path, name):
    config = make_config(name, id2label={0: "bell", 1: "dog"}, modalities=["visual", "audio"])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AudioVisualEncoderConfig and type(loaded.vision_config) is type(config.vision_config)
    for field in (
        "branch_grids",
        "branch_widths",
        "input_shapes",
        "prefix_tokens",
        "id2label",
        "label2id",
        "modalities",
    ):
        assert getattr(loaded, field) == getattr(config, field), field
    assert loaded.audio_config.to_dict() == config.audio_config.to_dict()


def test_both_encoders_are_saved_whole(tmp_path):
    AudioVisualEncoderConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["audio_config"]["num_hidden_layers"] == 12 and saved["vision_config"]["patch_size"] == 16


def test_one_modality():
    config = make_config(modalities=["visual"])
    assert list(config.input_shapes) == ["pixel_values"]
    assert config.branch_grids == {"visual": ((2, 2),), "fusion": ((2, 2),)}
    assert list(config.freezable_parts) == ["visual_encoder"]


def test_presets():
    tiny = AudioVisualEncoderConfig.from_preset("ast-vit-tiny", num_labels=10)
    assert tiny.branch_widths == {"audio": 192, "visual": 192, "fusion": 192}
    # as CAV-MAE's, so that either can teach the other
    assert tiny.branch_grids["fusion"] == ((8, 64), (14, 14))
    with pytest.raises(ValueError, match="choose one of ast-vit-base, ast-vit-small, ast-vit-tiny"):
        AudioVisualEncoderConfig.from_preset("tiny")


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"vision_config": ResNetConfig()},
            "vision_config: on which grid the tokens of a 'resnet' lie cannot be derived",
        ),
        ({"audio_config": Wav2Vec2Config()}, "audio_config: on which grid .* 'wav2vec2' .* known are audio-spec"),
        ({"fusion_hidden_size": 25}, "fusion_hidden_size 25 is not divisible by fusion_num_attention_heads 2"),
        ({"fusion_depth": 0}, "fusion_depth must be at least 1"),
        ({"modalities": ["sound"]}, "modalities must name audio, visual or both"),
        ({"image_size": 4}, "the input of the visual branch is smaller than one patch"),
        ({"vision_config": Dinov2Config(image_size=[224, 112])}, "pictures and patches must be square"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"audio_config": {"hidden_size": 2**40}},
        {"audio_config": {"num_hidden_layers": 10**9}},
        {"audio_config": {"time_stride": 0}},
        {"audio_config": {"max_length": 10**12}},
        {"vision_config": {"patch_size": 0}},
        {"vision_config": {"intermediate_size": 10**12}},
        {"vision_config": {"model_type": "swin", "depths": [2, 2, 10**9]}},
        {"vision_config": {"model_type": "pvt_v2", "strides": [4, 2, 2, 0]}},
        {"fusion_hidden_size": 2**40},
        {"fusion_depth": 10**9},
        {"image_size": 10**12},
        {"num_labels": 10**12},
    ],
)
def test_sizes_that_no_model_has_are_refused(fields):
    with pytest.raises((StrictDataclassError, ValueError)):
        AudioVisualEncoderConfig(**fields)
