"""The built-in miniature: layout, content, splits by handwriting, difficulty, and safe generation."""

import csv
import multiprocessing
import subprocess
import sys

import datasets
import numpy as np
import pytest
from sklearn.datasets import load_digits

from hf_emktd.data import generation as generation_module
from hf_emktd.data import load_clips, read_clip
from hf_emktd.data import touchtone as touchtone_module
from hf_emktd.data.touchtone import (
    DTMF_FREQUENCIES,
    IMAGE_SHARES,
    TOUCHTONE_LABELS,
    Touchtone,
    TouchtoneOptions,
    draw_clip,
)

TINY = {"num_train": 20, "num_validation": 10, "num_test": 10, "image_size": 32, "seconds": 1.0}
CLEAR = {"occluded_probability": 0.0, "drowned_probability": 0.0, "both_hard_probability": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("touchtone") / "set"
    Touchtone(path, **TINY)
    return path


def heard_digit(waveform: np.ndarray) -> int:
    """The digit whose two tones hold most of the power in any eighth of the sound (a matched filter)."""
    pieces = waveform[: len(waveform) // 8 * 8].reshape(8, -1)
    time = np.arange(pieces.shape[1]) / 16000
    power = {}
    for frequency in {f for pair in DTMF_FREQUENCIES for f in pair}:
        power[frequency] = np.abs(pieces @ np.exp(2j * np.pi * frequency * time)) ** 2
    scores = [np.minimum(power[low], power[high]).max() for low, high in DTMF_FREQUENCIES]
    return int(np.argmax(scores))


def test_layout_is_vggsounds(folder):
    with open(folder / "touchtone.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 40 and rows[0] == ["touch000000", "0", "digit 0", "train"]
    assert [row[3] for row in rows] == ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
    names = {f"{row[0]}_{int(row[1]):06d}.mp4" for row in rows}
    assert all(len(row[0]) == 11 for row in rows)
    assert {path.name for path in (folder / "clips").iterdir()} == names


def test_source_lists_every_clip_with_its_label(folder):
    source = Touchtone(folder, **TINY)
    assert source.label_names == list(TOUCHTONE_LABELS)
    assert {split: len(rows) for split, rows in source.splits.items()} == {"train": 20, "validation": 10, "test": 10}
    assert source.report.counts == {} and source.report.manifest_hash
    test = source.splits["test"]
    assert test["label"][:] == list(range(10)) and test.features["label"].names == list(TOUCHTONE_LABELS)


def test_clips_are_real_files_with_both_streams(folder):
    clip = read_clip(next((folder / "clips").iterdir()))
    assert clip.frames.shape == (10, 32, 32, 3) and clip.source_sampling_rate == 16000
    assert 16000 <= len(clip.waveform) <= 17000
    assert np.abs(np.diff(clip.frames.astype(int), axis=0)).mean() > 1


def test_the_written_clip_is_the_drawn_one(folder):
    frames, waveform = draw_clip(TouchtoneOptions(**TINY), "train", 3, 3)
    clip = read_clip(folder / "clips" / "touch000003_000000.mp4")
    assert np.abs(clip.frames.astype(int).mean((1, 2)) - frames.mean((1, 2))).max() < 6
    assert np.corrcoef(clip.waveform[:16000], waveform)[0, 1] > 0.95


def test_a_second_call_makes_nothing(folder, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the set was made again")

    monkeypatch.setattr(touchtone_module, "_write_set", refuse)
    assert len(Touchtone(folder, **TINY).splits["train"]) == 20


def test_default_folder_depends_on_the_options(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    sizes = {"num_train": 2, "num_validation": 0, "num_test": 1, "image_size": 16}
    for seed in (0, 1):
        source = load_clips("touchtone", seed=seed, **sizes)
        assert set(source.splits) == {"train", "test"}
    assert len(list((tmp_path / "touchtone").iterdir())) == 2


def test_a_set_with_other_options_is_refused(folder):
    with pytest.raises(ValueError, match=r"seed=0 \(asked: 3\).*choose another"):
        Touchtone(folder, seed=3, **TINY)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not a touchtone set"):
        Touchtone(tmp_path, **TINY)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_interrupted_set_leaves_nothing(tmp_path, monkeypatch):
    write_clip = touchtone_module.write_clip

    def interrupted(path, *arguments):
        if path.name.startswith("touch000005"):
            raise KeyboardInterrupt
        write_clip(path, *arguments)

    monkeypatch.setattr(touchtone_module, "write_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Touchtone(tmp_path / "set", **TINY)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(Touchtone(tmp_path / "set", **TINY).splits["train"]) == 20


def test_two_processes_may_make_the_same_set(tmp_path):
    program = (
        "import sys\n"
        "from hf_emktd.data.touchtone import Touchtone\n"
        f"source = Touchtone(sys.argv[1], **{TINY!r})\n"
        "print(source.report.manifest_hash)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "set")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0] and len(hashes) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_loser_of_the_race_uses_the_winners_set(tmp_path, monkeypatch):
    write_set = touchtone_module._write_set

    def slower(folder, options, num_proc):
        write_set(folder, options, num_proc)
        monkeypatch.setattr(touchtone_module, "_write_set", write_set)
        Touchtone(tmp_path / "set", **TINY)

    monkeypatch.setattr(touchtone_module, "_write_set", slower)
    assert len(Touchtone(tmp_path / "set", **TINY).splits["train"]) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are forked")
def test_several_processes_make_the_same_clips(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(generation_module, "CLIPS_PER_PROCESS", 10)
    Touchtone(tmp_path / "set", num_proc=2, **TINY)
    for path in sorted((folder / "clips").iterdir()):
        assert path.read_bytes() == (tmp_path / "set" / "clips" / path.name).read_bytes()


def test_splits_share_no_handwriting():
    images = {split: touchtone_module.split_images(split) for split in IMAGE_SHARES}
    assert sum(len(own) for split in images.values() for own in split) == len(load_digits().target) == 1797
    for digit in range(10):
        total = sum(len(images[split][digit]) for split in images)
        for split, share in IMAGE_SHARES.items():
            assert len(images[split][digit]) == pytest.approx(share * total, abs=1)
    seen = [{image.tobytes() for own in images[split] for image in own} for split in images]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_draws_depend_on_seed_split_and_position_only():
    options = TouchtoneOptions(**TINY)
    first = draw_clip(options, "train", 4, 4)
    again = draw_clip(TouchtoneOptions(**TINY | {"num_train": 99}), "train", 4, 4)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for changed in (
        draw_clip(options, "train", 14, 4),
        draw_clip(options, "test", 4, 4),
        draw_clip(TouchtoneOptions(**TINY, seed=1), "train", 4, 4),
    ):
        assert not np.array_equal(first[0], changed[0]) and not np.array_equal(first[1], changed[1])


def test_clear_tones_tell_the_digit_and_drowned_ones_do_not():
    easy = {"tone_snr_db": (0, 5), "tone_seconds": (0.4, 0.6), "max_beeps": 0, "detune": 0.0}
    clear = TouchtoneOptions(**TINY, **CLEAR, **easy)
    drowned = TouchtoneOptions(**TINY, **CLEAR | {"drowned_probability": 1.0}, **easy, drowned_snr_db=(-60, -50))
    for options, low, high in ((clear, 0.95, 1.0), (drowned, 0.0, 0.4)):
        right = [heard_digit(draw_clip(options, "train", i, i % 10)[1]) == i % 10 for i in range(60)]
        assert low <= np.mean(right) <= high


def test_signal_to_noise_ratio_is_in_decibels():
    waveform = np.zeros(16000)
    touchtone_module.add_tone(waveform, np.array([697.0, 1209.0]), 4.0, 0.5, np.random.default_rng(0))
    sounding = np.flatnonzero(waveform)
    assert sounding[-1] - sounding[0] == pytest.approx(8000, abs=5)
    middle = waveform[sounding[0] + 400 : sounding[-1] - 400]
    assert np.mean(middle**2) == pytest.approx(4.0, rel=0.02)
    assert touchtone_module.draw_noise(16000, np.random.default_rng(0)).std() == pytest.approx(1.0)


def test_peak_level_stays_below_full_scale():
    options = TouchtoneOptions(**TINY, peak_db=(-6.0, -6.0))
    for position in range(10):
        assert np.abs(draw_clip(options, "train", position, 0)[1]).max() == pytest.approx(10 ** (-6 / 20), rel=1e-5)


def test_clear_pictures_show_the_digit_and_covered_ones_do_not():
    easy = CLEAR | {"max_strokes": 0, "picture_noise": (0, 0), "contrast": (0.8, 0.8), "jitter_pixels": 0}
    spread = {}
    for name, covered in (("clear", 0.0), ("covered", 1.0)):
        options = TouchtoneOptions(
            **TINY | easy | {"occluded_probability": covered, "occlusion": (1.0, 1.0), "rotation_degrees": 0.0}
        )
        # colours of a covered picture: background and cover
        spread[name] = [len(np.unique(draw_clip(options, "train", i, 8)[0].reshape(-1, 3), axis=0)) for i in range(20)]
    assert min(spread["clear"]) > 10 and max(spread["covered"]) <= 2


def test_share_of_hard_clips():
    options = TouchtoneOptions(occluded_probability=0.3, drowned_probability=0.2, both_hard_probability=0.1)
    random = np.random.default_rng(0)
    draws = np.array([touchtone_module._draw_difficulty(options, random) for _ in range(4000)])
    occluded, drowned = draws.T
    assert (occluded & drowned).mean() == pytest.approx(0.1, abs=0.02)
    assert (occluded & ~drowned).mean() == pytest.approx(0.3, abs=0.03)
    assert (~occluded & drowned).mean() == pytest.approx(0.2, abs=0.03)


def test_cover_hides_the_asked_share_of_the_digit():
    for seed in range(8):
        rows, columns = touchtone_module._draw_cover(4, 6, 20, 0.6, np.random.default_rng(seed))
        mask = np.zeros((40, 40))
        mask[rows, columns] = 1
        assert mask.sum() == mask[6:26, 4:24].sum() == pytest.approx(0.6 * 400)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 33}, "must be even"),
        ({"num_train": -1}, "num_train must not be negative"),
        ({"contrast": (0.5, 0.2)}, r"contrast must be a range \(low, high\)"),
        ({"occluded_probability": 0.6, "drowned_probability": 0.5}, "at most 1, got 1.1"),
        ({"seconds": 0.5}, "longer than the clip"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TouchtoneOptions(**options)


def test_options_may_come_from_json():
    assert TouchtoneOptions(contrast=[0.3, 0.8]) == TouchtoneOptions(contrast=(0.3, 0.8))
