"""Views of scenes: labels, mirrored and silenced scenes, controls of the sound, teacher and student on one view."""

import pickle
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from transformers import HfArgumentParser

from hf_emktd.data import AudioVisualCollator, SceneAugmentationArguments, SceneTransform
from hf_emktd.data.scene_features import IGNORE_INDEX
from hf_emktd.models.avsegformer import AvSegFormerConfig, AvSegFormerProcessor

SIZE, STORED = 32, 48


def make_processor(image_size=SIZE, num_frames=5) -> AvSegFormerProcessor:
    return AvSegFormerProcessor.from_config(AvSegFormerConfig(image_size=image_size, num_frames=num_frames))


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_row(clip_id="scene", label=0, level=0, labelled=5, frames=5, examples=5, size=STORED) -> dict:
    """Frame k is black but for its left third, mask k white there; example k of the sound is `level + k`."""
    left = np.zeros((size, size), bool)
    left[:, : size // 3] = True
    pictures = [
        png(np.where(left[..., None], np.uint8(50 * (k % 5) + 50), np.uint8(0)).repeat(3, 2)) for k in range(frames)
    ]
    log_mel = np.full((examples, 96, 64), level, np.float16) + np.arange(examples, dtype=np.float16)[:, None, None]
    masks = [png(left) if k < labelled else None for k in range(frames)]
    return {"clip_id": clip_id, "label": label, "log_mel": log_mel.tobytes(), "frames": pictures, "masks": masks}


def make_features(labels: list[int]) -> Dataset:
    features = Features(
        {
            "clip_id": Value("string"),
            "label": ClassLabel(names=["ant", "cat", "dog"]),
            "log_mel": Value("binary"),
            "frames": List(Value("binary")),
            "masks": List(Value("binary")),
        }
    )
    rows = [make_row(f"scene{i}", label, level=100 * i) for i, label in enumerate(labels)]
    return Dataset.from_list(rows, features=features)


def heard(view: dict, name="input_values") -> float:
    """Level of the first example."""
    return float(view[name][0].mean())


class TestPlainViews:
    def test_shapes_and_types(self):
        view = SceneTransform(make_processor()).view(make_row(label=2), 0)
        assert set(view) == {"clip_id", "label", "input_values", "pixel_values", "labels"}
        assert view["clip_id"] == "scene" and view["label"] == 2
        assert view["input_values"].shape == (5, 96, 64) and view["input_values"].dtype == np.float32
        assert view["pixel_values"].shape == (5, 3, SIZE, SIZE) and view["pixel_values"].dtype == np.float32
        assert view["labels"].shape == (5, SIZE, SIZE) and view["labels"].dtype == np.int64

    def test_content_is_what_the_processor_makes(self):
        processor, row = make_processor(), make_row()
        view = SceneTransform(processor).view(row, 0)
        images = [Image.open(BytesIO(data)) for data in row["frames"]]
        expected = processor(images=images, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(view["pixel_values"], expected)
        np.testing.assert_array_equal(view["input_values"][:, 0, 0], np.arange(5))
        columns = view["labels"][0].sum(0)
        assert columns.tolist() == [SIZE] * 11 + [0] * 21 or columns.tolist() == [SIZE] * 10 + [0] * 22

    def test_frames_without_mask_are_ignored(self):
        labels = SceneTransform(make_processor()).view(make_row(labelled=1), 0)["labels"]
        assert set(np.unique(labels[0])) == {0, 1}
        assert np.unique(labels[1:]).tolist() == [IGNORE_INDEX] == [-100]

    def test_a_shorter_scene_is_continued_without_labels(self):
        view = SceneTransform(make_processor(num_frames=8)).view(make_row(), 0)
        assert not view["pixel_values"][5:].any() and view["pixel_values"][4].any()
        assert (view["labels"][5:] == IGNORE_INDEX).all() and view["labels"][4].max() == 1
        assert view["input_values"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4]

    def test_of_a_longer_scene_the_first_frames_are_taken(self):
        short, whole = (
            SceneTransform(make_processor(num_frames=n)).view(make_row(frames=10, examples=10), 0) for n in (3, 10)
        )
        for name in ("pixel_values", "input_values", "labels"):
            np.testing.assert_array_equal(short[name], whole[name][:3])

    def test_as_a_transform_of_a_data_set(self):
        features = make_features([0, 1])
        rows = features.with_transform(SceneTransform(make_processor()))
        state = torch.get_rng_state()
        batch = AudioVisualCollator()([rows[0], rows[1]])
        # evaluation does not shift the random numbers of training
        assert torch.equal(state, torch.get_rng_state())
        assert batch["labels"].shape == (2, 5, SIZE, SIZE) and batch["labels"].dtype == torch.int64
        assert batch["pixel_values"].shape == (2, 5, 3, SIZE, SIZE) and batch["input_values"].shape == (2, 5, 96, 64)

    def test_survives_a_worker_process(self):
        transform = pickle.loads(pickle.dumps(SceneTransform(make_processor())))
        assert transform.view(make_row(), 0)["labels"].max() == 1


class TestAugmentation:
    def test_mirrors_pictures_and_masks_together(self):
        plain = SceneTransform(make_processor()).view(make_row(labelled=3, size=SIZE), 0)
        always = SceneAugmentationArguments(flip_probability=1.0)
        view = SceneTransform(make_processor(), always).view(make_row(labelled=3, size=SIZE), 0)
        np.testing.assert_array_equal(view["pixel_values"], plain["pixel_values"][..., ::-1])
        np.testing.assert_array_equal(view["labels"], plain["labels"][..., ::-1])
        np.testing.assert_array_equal(view["input_values"], plain["input_values"])

    def test_silence_empties_the_masks_of_labelled_frames(self):
        always = SceneAugmentationArguments(silence_probability=1.0)
        processor = make_processor()
        view = SceneTransform(processor, always).view(make_row(labelled=3), 0)
        np.testing.assert_array_equal(view["input_values"], processor.feature_extractor.silence())
        assert not view["labels"][:3].any() and (view["labels"][3:] == IGNORE_INDEX).all()
        assert view["pixel_values"].any()

    def test_a_view_is_replayed_from_its_seed(self):
        arguments = SceneAugmentationArguments(flip_probability=0.5, silence_probability=0.5)
        transform, again = (SceneTransform(make_processor(), arguments) for _ in range(2))
        other = SceneTransform(make_processor(), arguments, seed=1)

        def kinds(transform: SceneTransform) -> list[tuple[bool, bool]]:
            views = [transform.view(make_row(), seed) for seed in range(40)]
            return [(bool(v["labels"].any()), bool(v["pixel_values"][4, 0, 0, 0] < 0)) for v in views]

        assert kinds(transform) == kinds(again) != kinds(other)
        flipped = np.mean([view[1] for view in kinds(transform)])
        silent = np.mean([not view[0] for view in kinds(transform)])
        assert 0.25 < flipped < 0.75 and 0.25 < silent < 0.75

    def test_defaults_change_nothing_as_in_the_official_recipe(self):
        assert SceneAugmentationArguments() == SceneAugmentationArguments.none()

    def test_from_the_command_line_and_from_a_config(self):
        (parsed,) = HfArgumentParser(SceneAugmentationArguments).parse_args_into_dataclasses(
            ["--flip_probability", "0.5"]
        )
        assert parsed == SceneAugmentationArguments(flip_probability=0.5)
        config = AvSegFormerConfig(training_augmentation={"flip_probability": 0.25, "silence_probability": 0.1})
        filled = SceneAugmentationArguments().fill_from(config)
        assert filled == SceneAugmentationArguments(0.25, 0.1)
        assert parsed.fill_from(config) == SceneAugmentationArguments(0.5, 0.1)
        assert parsed.fill_from(AvSegFormerConfig()) == parsed

    @pytest.mark.parametrize("name", ["flip_probability", "silence_probability"])
    def test_probabilities_out_of_range(self, name):
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got 1.5"):
            SceneAugmentationArguments(**{name: 1.5})


class TestControls:
    def test_silence_keeps_the_labels(self):
        processor = make_processor()
        plain, silent = (SceneTransform(processor, sound=sound).view(make_row(), 0) for sound in ("own", "silence"))
        np.testing.assert_array_equal(silent["input_values"], processor.feature_extractor.silence())
        for name in ("labels", "pixel_values"):
            np.testing.assert_array_equal(silent[name], plain[name])

    @pytest.mark.parametrize(
        ("labels", "partners"), [([0, 0, 1, 1], [2, 2, 0, 0]), ([0, 0, 0], [1, 2, 0]), ([0, 1, 2, 0], [1, 2, 3, 1])]
    )
    def test_swapped_sounds_come_from_the_next_scene_of_another_class(self, labels, partners):
        features = make_features(labels)
        rows = features.with_transform(SceneTransform(make_processor(), sound="swapped", partners=features))
        assert [heard(row) for row in rows] == [100 * index for index in partners]
        assert [row["label"] for row in rows] == labels and all(row["labels"].any() for row in rows)

    @pytest.mark.parametrize("count", [None, 1])
    def test_swapping_needs_partners(self, count):
        with pytest.raises(ValueError, match="swapped sounds need two scenes or more: pass partners"):
            SceneTransform(make_processor(), sound="swapped", partners=count and make_features([0]))

    def test_unknown_sound(self):
        with pytest.raises(ValueError, match="unknown sound 'loud'; expected 'own', 'silence', 'swapped'"):
            SceneTransform(make_processor(), sound="loud")


class TestTeacher:
    def test_same_inputs_are_not_made_twice(self):
        view = SceneTransform(make_processor(), teacher_processor=make_processor()).view(make_row(), 0)
        assert not any(name.startswith("teacher") for name in view)

    def test_a_larger_teacher_sees_the_same_view(self):
        always = SceneAugmentationArguments(flip_probability=1.0, silence_probability=1.0)
        teacher = make_processor(image_size=64)
        view = SceneTransform(make_processor(), always, teacher_processor=teacher).view(make_row(), 0)
        assert view["teacher_pixel_values"].shape == (5, 3, 64, 64) and view["labels"].shape == (5, SIZE, SIZE)
        # black on the left, where the picture was bright before it was mirrored
        assert view["teacher_pixel_values"][4, 0, :, 0].max() < 0 < view["teacher_pixel_values"][4, 0, :, -1].min()
        np.testing.assert_array_equal(view["teacher_input_values"], view["input_values"])
        batch = AudioVisualCollator()([view, view])
        assert batch["teacher_pixel_values"].shape == (2, 5, 3, 64, 64)

    def test_other_numbers_of_frames_are_refused(self):
        with pytest.raises(ValueError, match=r"the teacher sees 10 frames of a scene, the student 5.*num_frames"):
            SceneTransform(make_processor(), teacher_processor=make_processor(num_frames=10))
