"""Which students of a teacher are searched."""

from __future__ import annotations

import pytest
from tiny_runs import make_model

from hf_emktd import AudioVisualEncoderConfig
from hf_emktd.metrics import count_parameters
from hf_emktd.models.cav_mae import CavMaeConfig
from hf_emktd.search import list_candidates, spread
from hf_emktd.search.candidates import FIELDS
from hf_emktd.training import build_student_config
from tiny_segmenter import make_segmenter


@pytest.fixture(scope="module", params=["events", "masks"])
def teacher(request):
    """Head width 8 and two heads; or a segmenter."""
    return (make_model(modality_specific_depth=2) if request.param == "events" else make_segmenter()).eval()


@pytest.fixture(scope="module")
def candidates(teacher):
    return list_candidates(teacher.config)


def test_all_are_smaller_than_the_teacher_and_in_order(teacher, candidates):
    sizes = [candidate.parameters for candidate in candidates]
    assert len(sizes) > 10 and sizes == sorted(sizes, reverse=True)
    assert sizes[0] < count_parameters(teacher)


def test_no_student_is_listed_twice(candidates):
    assert len({tuple(candidate.student_fields) for candidate in candidates}) == len(candidates)


def test_distill_builds_the_same_student_from_the_fields(teacher, candidates):
    for candidate in spread(candidates, 4):
        config = build_student_config(teacher.config, None, candidate.student_fields)
        assert config.to_dict() == candidate.config.to_dict()
        assert count_parameters(type(teacher)(config)) == candidate.parameters


def test_inputs_and_classes_are_the_teachers(teacher, candidates):
    for candidate in candidates:
        assert candidate.config.input_shapes == teacher.config.input_shapes
        assert candidate.config.id2label == teacher.config.id2label


def test_widths_are_multiples_of_the_heads_of_a_large_teacher_and_of_half_of_those_of_a_small_one():
    large = {(fields["hidden_size"], fields["num_attention_heads"]) for fields in FIELDS[CavMaeConfig](CavMaeConfig())}
    assert large == {(64 * heads, heads) for heads in range(1, 13)}
    small = FIELDS[CavMaeConfig](CavMaeConfig(hidden_size=32, num_attention_heads=2))
    assert {(fields["hidden_size"], fields["num_attention_heads"]) for fields in small} == {
        (16, 1),
        (32, 2),
        (8, 1),
        (16, 2),
    }


def test_depths_and_patches_of_the_published_teacher():
    fields = list(FIELDS[CavMaeConfig](CavMaeConfig()))
    assert {each["modality_specific_depth"] for each in fields} == {11, 8, 6, 3}
    assert {each["patch_size"] for each in fields} == {16, 32}
    assert {each["joint_depth"] for each in fields} == {1, 2}


def test_patches_that_do_not_divide_the_inputs_are_left_out():
    fields = FIELDS[CavMaeConfig](CavMaeConfig(image_size=208))
    assert {each["patch_size"] for each in fields} == {16}


def test_spread_takes_the_first_and_then_what_is_far(candidates):
    taken = spread(candidates, 5)
    assert len(taken) == 5 and taken[0] is candidates[0]
    assert taken == [candidate for candidate in candidates if candidate in taken]
    assert spread(candidates, 5) == taken
    assert len({candidate.parameters for candidate in taken}) == 5


def test_spread_of_few_is_all_of_them(candidates):
    assert spread(candidates[:3], 3) == candidates[:3]
    assert spread(candidates[:3], 9) == candidates[:3]
    assert spread([], 2) == []
    with pytest.raises(ValueError, match="at least 1, got 0"):
        spread(candidates, 0)


def test_an_unknown_family_is_refused():
    class Strange:
        model_type = "strange"

    with pytest.raises(ValueError, match="'strange' is none of"):
        list_candidates(Strange())


def test_a_family_without_a_search_is_refused():
    with pytest.raises(ValueError, match="students of an audio_visual_encoder are not searched"):
        list_candidates(AudioVisualEncoderConfig())
