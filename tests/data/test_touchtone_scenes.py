"""The built-in miniature of AVSBench: layout, what sounds and what is white, splits, safe generation."""

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_emktd.data import AVSBench, extract_scene_features, load_clips, read_clip
from hf_emktd.data import generation as generation_module
from hf_emktd.data import touchtone_scenes as scenes_module
from hf_emktd.data.touchtone import DTMF_FREQUENCIES
from hf_emktd.data.touchtone_scenes import TOUCHTONE_SCENE_LABELS, TouchtoneSceneOptions, TouchtoneScenes, draw_scene
from hf_emktd.models.avsegformer import AvSegFormerConfig, AvSegFormerProcessor

TINY = {"num_train": 12, "num_validation": 3, "num_test": 4}
CLEAR = {"tone_snr_db": (20, 20), "detune": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes")
    for subset in ("single", "multi"):
        TouchtoneScenes(path, subset=subset, **TINY)
    return path


def heard_digits(second: np.ndarray) -> set[int]:
    """Digits whose two tones are both loud in the same twentieth of a second's sound."""
    heard = set()
    for piece in second.reshape(20, -1):
        time = np.arange(len(piece)) / 16000
        for digit, pair in enumerate(DTMF_FREQUENCIES):
            power = [np.abs(piece @ np.exp(2j * np.pi * hertz * time)) ** 2 / (piece @ piece) for hertz in pair]
            # a pure pair has half the power in each of its tones, and half of that in the positive frequencies
            if min(power) > len(piece) / 8:
                heard.add(digit)
    return heard


def draw(subset: str, position: int, **options):
    """Frames, masks and waveform of a scene, and by second the digits that sound."""
    sounding = []
    original = scenes_module._draw_waveform

    def recording(digits, *arguments):
        sounding.extend(digits)
        return original(digits, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_module, "_draw_waveform", recording)
        scene = draw_scene(TouchtoneSceneOptions(**options), subset, "train", position)
    return scene, sounding


class TestLayout:
    def test_single_is_that_of_the_single_source_subset(self, folder):
        with open(folder / "Single-source" / "s4_meta_data.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0] == {"name": "scene000000", "start": "0", "category": "digit_0", "split": "train"}
        assert Counter(row["split"] for row in rows) == {"train": 12, "val": 3, "test": 4}
        data = folder / "Single-source" / "s4_data"
        assert len(list((data / "visual_frames/val/digit_1/scene000013").iterdir())) == 5
        assert [path.name for path in (data / "gt_masks/train/digit_3/scene000003").iterdir()] == ["scene000003_1.png"]
        assert len(list((data / "gt_masks/test/digit_2/scene000017").iterdir())) == 5
        assert (data / "audio_wav/train/digit_3/scene000003.wav").stat().st_size == 44 + 2 * 80000

    def test_multi_is_that_of_the_multi_source_subset(self, folder):
        lines = (folder / "Multi-sources" / "ms3_meta_data.csv").read_text().splitlines()
        assert lines[:2] == ["video_id,split", "scene000000,train"] and len(lines) == 20
        data = folder / "Multi-sources" / "ms3_data"
        assert len(list((data / "gt_masks/train/scene000003").iterdir())) == 5
        assert (data / "audio_wav/val/scene000012.wav").is_file()

    @pytest.mark.parametrize(("subset", "official"), [("single", "s4"), ("multi", "ms3")])
    def test_read_by_avsbench(self, folder, subset, official):
        own, read = TouchtoneScenes(folder, subset=subset, **TINY), AVSBench(folder, subset=official)
        assert own.report.manifest_hash == read.report.manifest_hash and own.report.counts == {}
        assert own.report.found == {"train": 12, "validation": 3, "test": 4}
        assert own.label_names == (list(TOUCHTONE_SCENE_LABELS) if subset == "single" else ["sounding"])

    def test_files_hold_what_was_drawn(self, folder):
        frames, masks, waveform = draw_scene(TouchtoneSceneOptions(**TINY), "multi", "train", 3)
        row = AVSBench(folder, subset="ms3").splits["train"][3]
        for k in range(5):
            np.testing.assert_array_equal(np.asarray(Image.open(row["frames"][k])), frames[k])
            np.testing.assert_array_equal(np.asarray(Image.open(row["masks"][k])), masks[k])
        np.testing.assert_allclose(read_clip(row["audio"]).waveform, waveform, atol=2 / 32767)

    def test_all_scenes_are_usable(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        source = TouchtoneScenes(folder, **TINY)
        processor = AvSegFormerProcessor.from_config(AvSegFormerConfig(image_size=64))
        features = extract_scene_features(source, processor)
        assert {split: len(rows) for split, rows in features.items()} == {"train": 12, "validation": 3, "test": 4}
        assert source.report.counts == {}


class TestScenes:
    def test_one_digit_sounds_throughout(self):
        for position in range(10):
            (frames, masks, waveform), sounding = draw("single", position, **CLEAR)
            assert frames.shape == (5, 64, 64, 3) and frames.dtype == np.uint8
            assert masks.shape == (5, 64, 64) and masks.dtype == bool
            assert waveform.shape == (80000,) and waveform.dtype == np.float32
            assert sounding == [[position]] * 5 and masks.any((1, 2)).all()

    @pytest.mark.parametrize("subset", ["single", "multi"])
    def test_the_tones_are_those_of_the_sounding_digits(self, subset):
        for position in range(8):
            (_, masks, waveform), sounding = draw(subset, position, **CLEAR)
            for second, digits in enumerate(sounding):
                assert heard_digits(waveform[16000 * second : 16000 * (second + 1)]) == set(digits)
                assert masks[second].any() == bool(digits)

    def test_several_sound_and_change(self):
        scenes = [draw("multi", position)[1] for position in range(60)]
        counts = Counter(len(digits) for scene in scenes for digits in scene)
        assert set(counts) == {0, 1, 2, 3} and 0.03 < counts[0] / 300 < 0.2
        changes = np.mean([a != b for scene in scenes for a, b in pairwise(scene)])
        assert 0.25 < changes < 0.5
        assert all(len(set(digits)) == len(digits) for scene in scenes for digits in scene)

    def test_masks_are_the_ink_of_the_sounding_digit(self):
        clear = {"picture_noise": (0, 0), "max_strokes": 0, "contrast": (0.5, 0.5), "num_digits": (2, 2)}
        for position in range(10):
            (frames, masks, _), _ = draw("single", position, **clear)
            bright = frames[0].astype(float).mean(-1)
            inked = bright > bright.min() + 0.25 * 255
            # all of the mask is ink, and about as much ink is left for the silent digit
            assert inked[masks[0]].mean() > 0.99
            assert 0.2 < masks[0].sum() / inked.sum() < 0.8

    def test_digits_are_large_enough_and_apart(self):
        for position in range(10):
            (_, masks, _), _ = draw("single", position)
            rows, columns = np.nonzero(masks[0])
            assert np.ptp(rows) >= 15 and max(np.ptp(rows), np.ptp(columns)) < 32

    def test_digits_move_between_frames(self):
        (_, masks, _), _ = draw("single", 3)
        assert len({mask.tobytes() for mask in masks}) > 1
        (_, still, _), _ = draw("single", 3, jitter_pixels=0)
        assert len({mask.tobytes() for mask in still}) == 1

    def test_the_last_example_hears_its_own_second_only(self):
        """Example 4 is 3.84 to 4.8 s; the tones of second 3 end before, those of second 4 too."""
        noiseless = {"tone_snr_db": (60, 60), "peak_db": (-3, -3), "tone_share": (1, 1)}
        waveform = draw("single", 0, **noiseless)[0][2]
        tones = np.abs(waveform) > 0.05
        assert not tones[round(3.81 * 16000) : round(4.04 * 16000)].any() and not tones[round(4.81 * 16000) :].any()
        assert tones[round(4.1 * 16000) : round(4.7 * 16000)].any()

    def test_draws_depend_on_seed_subset_split_and_position_only(self):
        options = TouchtoneSceneOptions(**TINY)
        first = draw_scene(options, "multi", "train", 4)
        again = draw_scene(TouchtoneSceneOptions(**TINY | {"num_train": 99}), "multi", "train", 4)
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
        for changed in (
            draw_scene(options, "multi", "train", 5),
            draw_scene(options, "multi", "test", 4),
            draw_scene(options, "single", "train", 4),
            draw_scene(TouchtoneSceneOptions(seed=1), "multi", "train", 4),
        ):
            assert not np.array_equal(first[0], changed[0]) and not np.array_equal(first[2], changed[2])

    def test_peak_level(self):
        for position in range(5):
            waveform = draw("multi", position, peak_db=(-6.0, -6.0))[0][2]
            assert np.abs(waveform).max() == pytest.approx(10 ** (-6 / 20), rel=1e-5)


class TestGeneration:
    def test_a_second_call_makes_nothing(self, folder, monkeypatch):
        def refuse(*arguments):
            raise AssertionError("the set was made again")

        monkeypatch.setattr(scenes_module, "_write_set", refuse)
        assert len(TouchtoneScenes(folder, subset="multi", **TINY).splits["train"]) == 12

    def test_default_folder_depends_on_options_and_subset(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        sizes = {"num_train": 1, "num_validation": 0, "num_test": 1}
        for choice in ({"seed": 0}, {"seed": 1}, {"subset": "multi"}):
            assert set(load_clips("touchtone_scenes", **choice, **sizes).splits) == {"train", "test"}
        assert len(list((tmp_path / "touchtone_scenes").iterdir())) == 3

    def test_a_set_with_other_options_is_refused(self, folder):
        with pytest.raises(ValueError, match=r"touchtone_scenes set with seed=0 \(asked: 3\).*choose another"):
            TouchtoneScenes(folder, seed=3, **TINY)

    def test_the_real_data_set_is_left_alone(self, tmp_path):
        (tmp_path / "Single-source").mkdir()
        (tmp_path / "Single-source" / "s4_meta_data.csv").write_text("precious")
        with pytest.raises(ValueError, match="not a touchtone_scenes set"):
            TouchtoneScenes(tmp_path, **TINY)
        assert (tmp_path / "Single-source" / "s4_meta_data.csv").read_text() == "precious"

    def test_an_interrupted_set_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupted(path, waveform):
            if "scene000005" in path:
                raise KeyboardInterrupt

        monkeypatch.setattr(scenes_module, "_write_wav", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TouchtoneScenes(tmp_path, **TINY)
        assert list(tmp_path.iterdir()) == []

    def test_several_processes_make_the_same_scenes(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(generation_module, "CLIPS_PER_PROCESS", 5)
        TouchtoneScenes(tmp_path, num_proc=2, **TINY)
        files = [path for path in (folder / "Single-source").rglob("*") if path.is_file()]
        assert len(files) == 19 * 6 + 12 + 7 * 5 + 2
        for path in files:
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_digits": (2, 5)}, r"num_digits must lie between 1 and 4, got \(2, 5\)"),
        ({"num_kinds": 3}, "num_kinds must lie between the most digits of a scene, 4, and 10, got 3"),
        ({"num_kinds": 11}, "num_kinds must lie between .* 10, got 11"),
        ({"digit_scale": (0.4, 0.6)}, "digit_scale must be at most 0.5"),
        ({"contrast": (0.5, 0.2)}, r"contrast must be a range \(low, high\)"),
        ({"num_train": -1}, "num_train must not be negative"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TouchtoneSceneOptions(**options)


def test_unknown_subset():
    with pytest.raises(ValueError, match="unknown subset 's4'; expected 'single', 'multi'"):
        TouchtoneScenes(Path("nowhere"), subset="s4")
