"""The student a segmentation teacher gets, its processor, and what it takes over."""

from __future__ import annotations

import pytest
import tiny_runs
import tiny_scenes
import torch

from hf_emktd.models.avsegformer import AvSegFormerConfig, AvSegFormerProcessor
from hf_emktd.models.cav_mae import CavMaeConfig
from hf_emktd.training import build_student, build_student_config, family_for, family_of, inherit
from hf_emktd.training.students import part_of


@pytest.fixture(scope="module")
def teacher():
    return tiny_scenes.make_model(seed=1, vision_hidden_sizes=[16, 16, 32, 32])


def test_families_of_configs_and_tasks():
    assert family_of(CavMaeConfig()) is family_for("audio-visual-classification")
    assert family_of(AvSegFormerConfig()) is family_for("audio-visual-segmentation")
    with pytest.raises(ValueError, match="'bert' is none of cav_mae, avsegformer, audio_visual_encoder"):
        family_of(type("Other", (), {"model_type": "bert"})())


def test_b0_is_the_student_of_b5():
    student = build_student_config(AvSegFormerConfig.from_preset("b5", image_size=224))
    expected = AvSegFormerConfig.from_preset("b0", image_size=224)
    for name in ("hidden_sizes", "depths", "mlp_ratios", "num_attention_heads", "sr_ratios"):
        assert list(getattr(student, f"vision_{name}")) == list(getattr(expected, f"vision_{name}"))
    assert (student.image_size, student.audio_hidden_size, student.hidden_size) == (224, 4096, 256)


def test_presets_and_overrides(teacher):
    student = build_student_config(teacher.config, "b1", ["image_size=32", "vision_depths=[1,1,1,2]"])
    assert list(student.vision_hidden_sizes) == [64, 128, 320, 512] and student.image_size == 32
    assert list(student.vision_depths) == [1, 1, 1, 2] and student.num_queries == 4
    with pytest.raises(ValueError, match="one of b0, b1"):
        build_student_config(teacher.config, "tiny")


@pytest.mark.parametrize("heads, widths, expected", [([1, 1, 2, 2], [16, 16, 32, 32], [8, 8, 16, 16])])
def test_any_teacher_gets_valid_widths(heads, widths, expected):
    config = tiny_scenes.make_config(vision_num_attention_heads=heads, vision_hidden_sizes=widths)
    assert list(build_student_config(config).vision_hidden_sizes) == expected
    narrow = tiny_scenes.make_config(vision_num_attention_heads=heads, vision_hidden_sizes=[1, 3, 2, 6])
    assert list(build_student_config(narrow).vision_hidden_sizes) == [1, 1, 2, 2]


def test_students_of_another_kind_are_refused(teacher, tmp_path):
    tiny_runs.make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="audio-visual-classification"):
        build_student_config(teacher.config, str(tmp_path))
    with pytest.raises(ValueError, match="3"):
        build_student_config(teacher.config, None, ["num_frames=3"])


def test_masks_need_both_modalities(teacher):
    with pytest.raises(ValueError, match="a student of audio alone cannot mark in the picture what sounds"):
        build_student_config(teacher.config, modalities=["audio"])
    assert build_student_config(teacher.config, modalities=["visual", "audio"]).model_type == "avsegformer"


def test_the_processor_keeps_normalisation_and_takes_sizes(teacher):
    processor = AvSegFormerProcessor.from_config(teacher.config)
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    student, own = build_student(build_student_config(teacher.config, None, ["image_size=32"]), processor)
    assert (student.config.image_size, own.image_processor.image_size) == (32, 32)
    assert own.image_processor.image_mean == [0.1, 0.2, 0.3]
    assert processor.image_processor.image_size == 64


class TestInherit:
    def test_the_audio_encoder_by_default(self, teacher):
        student = tiny_scenes.make_model(seed=2)
        assert inherit(student, teacher) == ["audio_encoder"]
        own, given = part_of(student, "audio_encoder"), part_of(teacher, "audio_encoder")
        for name, tensor in given.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], tensor)
        assert all(parameter.requires_grad for parameter in student.parameters())

    def test_nothing_of_another_size_and_nothing_unasked(self, teacher):
        slim = tiny_scenes.make_model(audio_hidden_size=8)
        assert inherit(slim, teacher) == []
        assert inherit(tiny_scenes.make_model(), teacher, []) == []
        with pytest.raises(ValueError, match="audio_encoder has other sizes"):
            inherit(slim, teacher, ["audio_encoder"])

    def test_classifiers_inherit_nothing(self):
        assert inherit(tiny_runs.make_model(), tiny_runs.make_model(seed=1)) == []
