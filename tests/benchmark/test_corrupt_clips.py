from __future__ import annotations

import csv
import importlib.util
import os
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_emktd.data import ClipTable, read_clip

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "corrupt_clips.py"
SPEC = importlib.util.spec_from_file_location("corrupt_clips", SCRIPT)
corrupt_clips = sys.modules["corrupt_clips"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(corrupt_clips)

SHARES = {"picture": 0.25, "sound": 0.25}
COUNTS = {"train": 8, "test": 4}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Of white squares on black, and tones."""
    folder = tmp_path_factory.mktemp("clean")
    lines = ["split,label,image,audio"]
    picture = np.zeros((28, 28), np.uint8)
    picture[8:20, 8:20] = 255
    tone = (8000 * np.sin(np.arange(4000) * 0.3)).astype("<i2")
    for split, count in COUNTS.items():
        for index in range(count):
            name = f"{split}{index}"
            Image.fromarray(picture).save(folder / f"{name}.png")
            with wave.open(str(folder / f"{name}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(tone.tobytes())
            lines.append(f"{split},{index % 2},{name}.png,{name}.wav")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def copy(table, tmp_path_factory) -> Path:
    return corrupt_clips.corrupt_table(table, tmp_path_factory.mktemp("copy") / "corrupted", SHARES, num_proc=1)


def rows(table: Path) -> list[dict[str, str]]:
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_copy_is_a_table_with_the_same_clips(table, copy):
    clean, corrupted = ClipTable(table), ClipTable(copy)
    assert corrupted.label_names == clean.label_names
    for split, count in COUNTS.items():
        kept = [(row["clip_id"], row["label"]) for row in corrupted.splits[split]]
        assert kept == [(row["clip_id"], row["label"]) for row in clean.splits[split]]
        kinds = sorted(row["corrupted"] for row in rows(copy) if row["split"] == split)
        assert kinds == sorted(["none"] * (count // 2) + ["picture"] * (count // 4) + ["sound"] * (count // 4))


def test_one_sense_is_lost_and_the_other_stays(table, copy):
    picture, tone = np.asarray(Image.open(table.parent / "test0.png"), float), np.sin(np.arange(8000) * 0.15)
    for row in rows(copy):
        seen = np.asarray(Image.open(copy.parent / row["image"]), float).mean(-1)
        likeness = np.corrcoef(seen.ravel(), picture.ravel())[0, 1]
        assert (abs(likeness) < 0.6) == (row["corrupted"] == "picture"), (row, likeness)
        heard = read_clip(copy.parent / row["audio"], read_video=False).waveform
        spectrum = np.abs(np.fft.rfft(heard)) ** 2
        tonal = spectrum[np.argmax(np.abs(np.fft.rfft(tone))) + np.arange(-2, 3)].sum() / spectrum.sum()
        assert (tonal < 0.3) == (row["corrupted"] == "sound"), (row, tonal)
        assert len(heard) == pytest.approx(8000, abs=2) and 0.09 < np.abs(heard).max() < 0.72


def test_the_same_arguments_give_the_same_files_and_others_do_not(table, copy, tmp_path):
    same = corrupt_clips.corrupt_table(table, tmp_path / "same", SHARES, num_proc=1)
    assert contents(same.parent) == contents(copy.parent)
    other = corrupt_clips.corrupt_table(table, tmp_path / "other", SHARES, seed=1, num_proc=1)
    assert other.read_text() != copy.read_text()


def test_a_finished_copy_is_left_alone_and_another_is_not_mixed_with_it(table, copy):
    before = os.stat(copy).st_mtime_ns
    corrupt_clips.corrupt_table(table, copy.parent, SHARES)
    assert os.stat(copy).st_mtime_ns == before
    with pytest.raises(ValueError, match=r"holds a corrupted_clips set with seed=0 \(asked: 1\)"):
        corrupt_clips.corrupt_table(table, copy.parent, SHARES, seed=1)


def test_noise_lies_in_cells_that_shrinking_keeps():
    random = np.random.default_rng(0)
    picture = corrupt_clips.corrupt_picture(np.full((112, 56, 3), 128, np.uint8), heavily=False, random=random)
    cells = picture.reshape(28, 4, 14, 4, 3)
    assert (cells == cells[:, :1, :, :1]).all() and picture.std() > 2


def test_a_clip_without_sound_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "clips.csv").write_text("split,label,image,audio\ntrain,x,a.png,\n")
    with pytest.raises(ValueError, match="and audio None; it needs a file of each"):
        corrupt_clips.corrupt_table(tmp_path / "clips.csv", tmp_path / "copy", SHARES)
    assert not (tmp_path / "copy").exists()
