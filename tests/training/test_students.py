"""The student that a teacher gets, and its processor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import LABELS, make_model
from transformers import ASTConfig, AutoModel, PvtV2Config, SwinConfig, ViTConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_emktd import AudioVisualEncoderConfig
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor
from hf_emktd.training import (
    build_student,
    build_student_config,
    check_inheritance,
    derive_config,
    has_weights,
    inherit,
    student_processor,
)
from tiny_encoders import VISION_CONFIGS, make_audio_config, make_config

NAMES = {index: f"class {index}" for index in range(309)}


@pytest.fixture
def teacher() -> CavMaeConfig:
    return CavMaeConfig(id2label=NAMES, audio_length=512)


@pytest.fixture
def normalising() -> CavMaeProcessor:
    """A processor with nothing at its default."""
    return CavMaeProcessor(
        CavMaeFeatureExtractor(
            num_mel_bins=32, audio_length=32, sampling_rate=8000, mean=-3.0, std=2.0, padding_value=-1.0
        ),
        CavMaeImageProcessor(image_size=16, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    )


class TestConfig:
    def test_a_quarter_of_the_teachers_width_by_default(self, teacher):
        student = build_student_config(teacher)
        assert (student.hidden_size, student.num_attention_heads) == (192, 3)
        assert (student.modality_specific_depth, student.joint_depth) == (11, 1)
        assert (student.audio_length, student.image_size) == (512, 224)
        assert student.id2label == teacher.id2label and student.label2id["class 308"] == 308

    @pytest.mark.parametrize(
        "width, heads, expected",
        [(96, 2, (24, 1)), (384, 6, (96, 1)), (16, 2, (4, 1)), (36, 3, (8, 1)), (88, 11, (20, 2)), (4, 1, (4, 1))],
    )
    def test_any_teacher_gets_a_valid_width(self, width, heads, expected):
        student = build_student_config(CavMaeConfig(hidden_size=width, num_attention_heads=heads))
        assert (student.hidden_size, student.num_attention_heads) == expected

    @pytest.mark.parametrize("preset, width", [("tiny", 192), ("small", 384), ("base", 768)])
    def test_presets_keep_the_teachers_inputs(self, teacher, preset, width):
        student = build_student_config(teacher, preset)
        assert (student.hidden_size, student.audio_length, student.num_labels) == (width, 512, 309)

    def test_overrides(self, teacher):
        student = build_student_config(
            teacher, "tiny", ["modality_specific_depth=2", "mlp_ratio=2.5", "hidden_act=relu"]
        )
        assert (student.modality_specific_depth, student.mlp_ratio, student.hidden_act) == (2, 2.5, "relu")
        assert teacher.modality_specific_depth == 11

    @pytest.mark.parametrize("override", ["depth=2", "modality_specific_depth", "audio_grid=[1,1]", "_name_or_path=x"])
    def test_bad_overrides_name_the_fields(self, teacher, override):
        with pytest.raises(ValueError, match=r"expected FIELD=VALUE with a field of CavMaeConfig \(.*hidden_size"):
            build_student_config(teacher, overrides=[override])

    def test_a_value_out_of_range_is_refused_by_the_config(self, teacher):
        with pytest.raises(ValueError, match="image_size 100 is not a multiple of patch_size 16"):
            build_student_config(teacher, overrides=["image_size=100"])

    def test_unknown_student(self, teacher):
        with pytest.raises(ValueError, match=r"must be one of base, small, tiny, .* or a directory .* got 'nano'"):
            build_student_config(teacher, "nano")

    def test_is_not_named_after_the_teacher(self, tmp_path):
        make_model().save_pretrained(tmp_path)
        teacher = AutoModel.from_pretrained(tmp_path).config
        assert teacher._name_or_path and not build_student_config(teacher)._name_or_path

    @pytest.mark.parametrize(
        "names, message",
        [
            ({0: "bell", 1: "rain", 2: "dog"}, "1: student 'rain', teacher 'dog'"),
            ({0: "bell", 1: "dog"}, "the student has 2 classes, the teacher 3"),
        ],
    )
    def test_a_directory_for_other_classes_is_refused(self, tmp_path, names, message):
        make_model(id2label=names).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            build_student_config(make_model().config, str(tmp_path))

    @pytest.mark.parametrize(
        "override, message",
        [
            ("num_mel_bins=16", "the student hears 16 mel bins, the teacher 32"),
            ("patch_size=4", "the student's grid of 8 x 8 tokens is finer than the teacher's 4 x 4"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused(self, override, message):
        with pytest.raises(ValueError, match=message):
            build_student_config(make_model().config, overrides=[override])

    def test_larger_inputs_than_the_teachers_are_refused(self):
        teacher = make_model(patch_size=4).config  # a grid fine enough for any of these students
        with pytest.raises(ValueError, match="the student's image_size is 32, the teacher's 16"):
            build_student_config(teacher, overrides=["image_size=32", "patch_size=8"])
        with pytest.raises(ValueError, match="the student's audio_length is 64, the teacher's 32"):
            build_student_config(teacher, overrides=["audio_length=64", "patch_size=8"])

    @pytest.mark.parametrize("modality", ["audio", "visual"])
    def test_a_student_of_one_modality(self, teacher, modality):
        student = build_student_config(teacher, modalities=[modality])
        assert student.modalities == (modality,) and student.hidden_size == 192
        # a teacher of the other modality will do, and one of a single modality has students like itself
        other = build_student_config(student, modalities=["visual" if modality == "audio" else "audio"])
        assert set(other.modalities) & set(student.modalities) == set()
        assert build_student_config(student).modalities == (modality,)
        assert build_student_config(student, modalities=["visual", "audio"]).modalities == ("audio", "visual")

    def test_an_unknown_modality_is_refused(self, teacher):
        with pytest.raises(ValueError, match="modalities must name audio, visual or both, once each, but is"):
            build_student_config(teacher, modalities=["sound"])


class TestTwoEncoders:
    """Students and teachers of two encoders of transformers."""

    @pytest.mark.parametrize("name", VISION_CONFIGS)
    def test_a_quarter_of_all_widths_by_default(self, name):
        teacher = make_config(name, fusion_hidden_size=64, fusion_num_attention_heads=4)
        student = build_student_config(teacher)
        assert student.branch_widths["audio"] == 4 and student.branch_widths["fusion"] == 16
        assert student.branch_widths["visual"] < teacher.branch_widths["visual"]
        assert student.branch_grids == teacher.branch_grids
        AutoModel.from_config(student)  # its heads divide its widths

    @pytest.mark.parametrize(
        "vision, expected",
        [
            (ViTConfig(), (192, 3)),
            (SwinConfig(), (24, [1, 1, 3, 6])),
            (PvtV2Config(), ([8, 16, 40, 64], [1, 1, 1, 2])),
        ],
    )
    def test_a_quarter_of_published_encoders(self, vision, expected):
        student = build_student_config(AudioVisualEncoderConfig(vision_config=vision)).vision_config.to_dict()
        names = {"swin": ("embed_dim", "num_heads"), "pvt_v2": ("hidden_sizes", "num_attention_heads")}
        names = names.get(vision.model_type, ("hidden_size", "num_attention_heads"))
        assert tuple(student[name] for name in names) == expected

    def test_a_cav_mae_by_name(self):
        teacher = AudioVisualEncoderConfig(id2label=NAMES, audio_config=ASTConfig(max_length=512))
        student = build_student_config(teacher, "tiny")
        assert (student.model_type, student.hidden_size, student.audio_length) == ("cav_mae", 192, 512)
        assert student.id2label == NAMES

    def test_two_encoders_by_name(self, teacher):
        student = build_student_config(
            teacher, "ast-vit-small", ["vision_config.num_hidden_layers=4", "fusion_depth=1"]
        )
        assert student.branch_widths == {"audio": 384, "visual": 384, "fusion": 384}
        assert (student.audio_length, student.vision_config.num_hidden_layers, student.fusion_depth) == (512, 4, 1)
        assert student.id2label == NAMES
        own = build_student_config(student, "ast-vit-tiny")
        assert own.branch_widths["fusion"] == 192 and own.audio_length == 512

    @pytest.mark.parametrize("override", ["vision_config.depth=2", "fusion_depth.x=2", "video_config.depth=2"])
    def test_bad_overrides_of_an_encoder(self, override):
        with pytest.raises(ValueError, match="expected FIELD=VALUE with a field of AudioVisualEncoderConfig"):
            build_student_config(make_config(), overrides=[override])

    def test_a_config_alone_gets_the_teachers_classes(self, tmp_path):
        make_config(
            audio_config=make_audio_config(num_mel_bins=32, frequency_stride=8, time_stride=8)
        ).save_pretrained(tmp_path)
        assert build_student_config(make_model(patch_size=4).config, str(tmp_path)).id2label == dict(enumerate(LABELS))

    def test_one_modality(self):
        assert build_student_config(make_config(), modalities=["audio"]).branch_widths == {"audio": 4, "fusion": 6}

    def test_weights_are_not_sliced(self):
        model = AutoModel.from_config(make_config())
        with pytest.raises(ValueError, match="weights of an audio_visual_encoder cannot be sliced"):
            check_inheritance(build_student_config(model.config), model)

    def test_a_whole_encoder_may_be_taken_over(self):
        student, teacher = (AutoModel.from_config(make_config()) for _ in range(2))
        assert inherit(student, teacher) == []
        assert inherit(student, teacher, ["visual_encoder"]) == ["visual_encoder"]
        for name, value in teacher.base_model.visual_encoder.state_dict().items():
            assert torch.equal(student.base_model.visual_encoder.state_dict()[name], value)


class TestProcessor:
    def test_new_sizes_and_the_teachers_normalisation(self, normalising):
        config = make_model(audio_length=16, image_size=8).config
        student = student_processor(normalising, config)
        assert isinstance(student, CavMaeProcessor)
        audio, visual = student.feature_extractor, student.image_processor
        assert (audio.num_mel_bins, audio.audio_length, audio.sampling_rate) == (32, 16, 8000)
        assert (audio.mean, audio.std, audio.padding_value) == (-3.0, 2.0, -1.0)
        assert (visual.image_size, visual.image_mean, visual.image_std) == (8, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
        assert normalising.image_processor.image_size == 16

    def test_one_modality(self, normalising):
        student = student_processor(normalising, make_model(modalities=["visual"]).config)
        assert student.model_input_names == ["pixel_values"]
        assert student.image_processor.image_mean == [0.1, 0.2, 0.3]

    def test_survives_saving(self, normalising, tmp_path):
        student_processor(normalising, make_model(image_size=8).config).save_pretrained(tmp_path)
        loaded = CavMaeProcessor.from_pretrained(tmp_path)
        assert loaded.image_processor.image_size == 8
        assert (loaded.feature_extractor.mean, loaded.feature_extractor.sampling_rate) == (-3.0, 8000)


class TestModel:
    def test_from_scratch(self, normalising):
        config = build_student_config(make_model().config)
        torch.manual_seed(0)
        first, processor = build_student(config, normalising)
        torch.manual_seed(0)
        second, _ = build_student(config, normalising, "tiny")
        assert first.config.id2label == dict(enumerate(LABELS))
        assert torch.equal(first.classifier.dense.weight, second.classifier.dense.weight)
        assert processor.feature_extractor.mean == -3.0

    def test_a_directory_starts_from_its_weights_and_its_own_normalisation(self, normalising, tmp_path):
        trained = make_model(seed=3)
        trained.save_pretrained(tmp_path)
        own = CavMaeProcessor.from_config(trained.config)
        own.save_pretrained(tmp_path)
        config = build_student_config(make_model(seed=1).config, str(tmp_path))
        student, processor = build_student(config, normalising, str(tmp_path))
        for name, tensor in trained.state_dict().items():
            assert torch.equal(student.state_dict()[name], tensor)
        assert processor.feature_extractor.mean == own.feature_extractor.mean != normalising.feature_extractor.mean

    def test_a_model_that_lost_its_weights_is_not_trained_anew(self, normalising, tmp_path):
        make_model().config.save_pretrained(tmp_path)
        normalising.save_pretrained(tmp_path)
        config = build_student_config(make_model().config, str(tmp_path))
        with pytest.raises(ValueError, match="is no model this library can load"):
            build_student(config, normalising, str(tmp_path))

    def test_a_directory_with_a_config_alone_is_a_student_from_scratch(self, tmp_path, normalising):
        make_model(hidden_size=8).config.save_pretrained(tmp_path)
        config = build_student_config(make_model().config, str(tmp_path))
        assert config.hidden_size == 8 and not config._name_or_path and not has_weights(str(tmp_path))
        student, processor = build_student(config, normalising, str(tmp_path))
        assert student.config.hidden_size == 8 and processor.feature_extractor.mean == -3.0

    @pytest.mark.parametrize(("name", "expected"), [(None, False), ("tiny", False), ("org/model", True)])
    def test_what_has_weights(self, name, expected):
        assert has_weights(name) is expected

    def test_trains_in_float32_whatever_the_teacher_was_saved_in(self, normalising, tmp_path):
        make_model().bfloat16().save_pretrained(tmp_path)
        CavMaeProcessor.from_config(make_model().config).save_pretrained(tmp_path)
        teacher = CavMaeConfig.from_pretrained(tmp_path)
        assert teacher.dtype == torch.bfloat16
        for student in (None, str(tmp_path)):
            model, _ = build_student(build_student_config(teacher, student), normalising, student)
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_derived_configs_are_checked():
    config = CavMaeConfig()
    assert derive_config(config, {"image_size": 112}).visual_grid == (7, 7)
    with pytest.raises(ValueError, match="CavMaeConfig: hidden_size 770 is not divisible"):
        derive_config(config, {"hidden_size": 770})
    with pytest.raises(ValueError, match="CavMaeConfig: Field 'hidden_size' expected int, got str"):
        derive_config(config, {"hidden_size": "wide"})
