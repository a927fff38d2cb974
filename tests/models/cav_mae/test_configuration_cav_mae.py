import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hf_emktd import CavMaeConfig


def test_defaults_describe_the_published_model():
    config = CavMaeConfig()
    assert config.audio_grid == (8, 64)
    assert config.visual_grid == (14, 14)
    assert config.task == "audio-visual-classification"
    assert config.branch_grids == {
        "audio": ((8, 64),),
        "visual": ((14, 14),),
        "fusion": ((8, 64), (14, 14)),
    }
    assert config.input_shapes == {"input_values": (1024, 128), "pixel_values": (3, 224, 224)}
    assert config.branch_widths == {"audio": 768, "visual": 768, "fusion": 768}
    assert config.intermediate_size == 3072
    assert config.num_labels == 309
    assert (config.id2label[308], config.label2id["LABEL_308"]) == ("LABEL_308", 308)


@pytest.mark.parametrize(
    ("modality", "grid", "inputs"),
    [("audio", (8, 64), {"input_values": (1024, 128)}), ("visual", (14, 14), {"pixel_values": (3, 224, 224)})],
)
def test_one_modality_is_described_alone(modality, grid, inputs, tmp_path):
    CavMaeConfig(modalities=[modality]).save_pretrained(tmp_path)
    config = CavMaeConfig.from_pretrained(tmp_path)
    assert config.modalities == (modality,)
    assert config.branch_grids == {modality: (grid,), "fusion": (grid,)}
    assert config.branch_widths == {modality: 768, "fusion": 768}
    assert config.input_shapes == inputs


def test_sound_comes_first_in_whatever_order_modalities_are_named():
    assert CavMaeConfig(modalities=["visual", "audio"]).modalities == ("audio", "visual")


@pytest.mark.parametrize(("name", "width", "heads"), [("base", 768, 12), ("small", 384, 6), ("tiny", 192, 3)])
def test_presets(name, width, heads):
    config = CavMaeConfig.from_preset(name, audio_length=512, num_labels=10)
    assert (config.hidden_size, config.num_attention_heads) == (width, heads)
    assert (config.audio_grid, config.num_labels) == ((8, 32), 10)


def test_a_preset_field_can_be_overridden():
    assert CavMaeConfig.from_preset("tiny", num_attention_heads=6).num_attention_heads == 6


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'huge'.*base, small, tiny"):
        CavMaeConfig.from_preset("huge")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 200, "num_attention_heads": 12}, "hidden_size 200 .* num_attention_heads 12"),
        ({"hidden_size": 18, "num_attention_heads": 3}, "hidden_size 18 is not divisible by 4"),
        ({"audio_length": 1000}, "audio_length 1000 .* patch_size 16; use 992"),
        ({"image_size": 225}, "image_size 225 .* patch_size 16; use 224"),
        ({"num_mel_bins": 8}, "num_mel_bins 8 .* patch_size 16; use 16"),
        ({"joint_depth": 0}, "joint_depth must be at least 1 but is 0"),
        ({"patch_size": 0}, "patch_size must be at least 1 but is 0"),
        ({"single_modality_mode": "audio"}, "single_modality_mode"),
        ({"modalities": []}, r"must name audio, visual or both, once each, but is \[\]"),
        ({"modalities": ["sound"]}, r"must name audio, visual or both, once each, but is \['sound'\]"),
        ({"modalities": ["audio", "audio"]}, r"once each, but is \['audio', 'audio'\]"),
        ({"hidden_size": "768"}, "expected int, got str"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_construction(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        CavMaeConfig(**fields)


def test_labels_are_inverted_and_survive_saving(tmp_path):
    CavMaeConfig(id2label={0: "dog", 1: "cat"}, single_modality_mode="only").save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, CavMaeConfig)
    assert (config.id2label, config.label2id) == ({0: "dog", 1: "cat"}, {"dog": 0, "cat": 1})
    assert config.single_modality_mode == "only"


@pytest.mark.parametrize("num_labels", [1, 2, 309])
def test_number_of_unnamed_labels_survives_saving(tmp_path, num_labels):
    CavMaeConfig(num_labels=num_labels).save_pretrained(tmp_path)
    assert CavMaeConfig.from_pretrained(tmp_path).num_labels == num_labels


def test_new_number_of_labels_on_loading(tmp_path):
    CavMaeConfig(id2label={0: "dog", 1: "cat"}).save_pretrained(tmp_path)
    config = CavMaeConfig.from_pretrained(tmp_path, num_labels=3)
    assert list(config.label2id) == ["LABEL_0", "LABEL_1", "LABEL_2"]
