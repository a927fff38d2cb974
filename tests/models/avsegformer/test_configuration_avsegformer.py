import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hf_emktd import AvSegFormerConfig


def test_defaults_describe_the_published_model():
    config = AvSegFormerConfig()
    assert config.task == "audio-visual-segmentation"
    assert config.input_shapes == {"input_values": (5, 96, 64), "pixel_values": (5, 3, 512, 512)}
    assert config.branch_grids == {"audio": ((4, 6),) * 5, "visual": ((16, 16),) * 5, "fusion": ((32, 32),) * 5}
    assert config.branch_widths == {"audio": 512, "visual": 512, "fusion": 256}
    assert (config.num_labels, config.id2label, config.label2id) == (1, {0: "sounding"}, {"sounding": 0})


@pytest.mark.parametrize(
    ("name", "widths", "depths"), [("b0", [32, 64, 160, 256], [2] * 4), ("b5", [64, 128, 320, 512], [3, 6, 40, 3])]
)
def test_presets_change_the_picture_encoder_alone(name, widths, depths):
    config = AvSegFormerConfig.from_preset(name, image_size=224)
    assert (config.vision_hidden_sizes, config.vision_depths) == (widths, depths)
    assert (config.hidden_size, config.image_size) == (256, 224)
    assert config.branch_widths["visual"] == widths[3]


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'b6'.*b0, b1, b2, b3, b4, b5"):
        AvSegFormerConfig.from_preset("b6")


@pytest.mark.parametrize(
    ("choice", "branch", "grid", "width"),
    [
        ({"audio_token_layer": "embedding"}, "audio", (1, 1), 128),
        ({"audio_token_layer": "projection"}, "audio", (1, 1), 256),
        ({"visual_token_stage": 3}, "visual", (14, 14), 320),
        ({"fusion_token_source": "queries"}, "fusion", (1, 300), 256),
    ],
)
def test_grids_and_widths_follow_the_choice_of_tokens(choice, branch, grid, width):
    config = AvSegFormerConfig(image_size=224, num_frames=2, **choice)
    assert config.branch_grids[branch] == (grid, grid)
    assert config.branch_widths[branch] == width


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 225}, "image_size 225 is not a multiple of 32; use 224"),
        ({"image_size": 8}, "image_size 8 is not a multiple of 32; use 32"),
        ({"hidden_size": 200}, "hidden_size 200 is not divisible by norm_groups 32; use 224"),
        ({"hidden_size": 192, "num_attention_heads": 5}, "192 is not divisible by num_attention_heads 5; use 195"),
        ({"hidden_size": 36, "num_attention_heads": 6, "norm_groups": 6}, "hidden_size 36 is not divisible by 8"),
        ({"vision_depths": [2, 2, 2]}, r"vision_depths must be 4 positive numbers but is \[2, 2, 2\]"),
        ({"audio_channels": [8] * 5 + [0]}, "audio_channels must be 6 positive numbers"),
        ({"vision_num_attention_heads": [1, 2, 6, 8]}, r"vision_hidden_sizes\[2\] 320 .* by .*\[2\] 6; use 324"),
        ({"num_queries": 0}, "num_queries must be at least 1 but is 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1 but is 1.0"),
        ({"auxiliary_weight": -1}, "auxiliary_weight must not be negative but is -1"),
        ({"id2label": {0: "dog", 1: "cat"}}, "one mask, of what sounds, but 2 labels were given"),
        ({"visual_token_stage": 2}, "visual_token_stage"),
        ({"audio_token_layer": "queries"}, "audio_token_layer"),
        ({"hidden_size": "256"}, "expected int, got str"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_construction(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        AvSegFormerConfig(**fields)


def test_saved_and_loaded(tmp_path):
    config = AvSegFormerConfig.from_preset("b0", visual_token_stage=3, id2label={0: "loud"})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, AvSegFormerConfig)
    assert (loaded.id2label, loaded.label2id, loaded.visual_token_stage) == ({0: "loud"}, {"loud": 0}, 3)
    assert loaded.vision_hidden_sizes == [32, 64, 160, 256]


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 2**40},
        {"mask_mlp_size": 2**40},
        {"audio_hidden_size": 2**40},
        {"vision_depths": [2, 2, 10**9, 2]},
        {"vision_mlp_ratios": [float("inf"), 4, 4, 4]},
        {"image_size": 2**40},
        {"num_frames": 10**9},
        {"num_queries": 10**12},
        {"decoder_layers": 10**9},
    ],
)
def test_sizes_that_no_model_has_are_refused(fields):
    with pytest.raises(StrictDataclassError):
        AvSegFormerConfig(**fields)
