"""How features are kept: in files of so many clips, by one run at a time."""

from __future__ import annotations

import threading

import datasets
import pytest
from datasets import Dataset
from filelock import FileLock

from hf_emktd.data import extract_features, feature_cache, load_clips


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "hf_emktd_features"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_files_together_are_the_whole(folder, table, processor, monkeypatch, workers):
    whole = extract_features(load_clips(str(table)), processor, num_frames=1)
    assert names(folder) == ["test.arrow", "train.arrow", "validation.arrow"]
    monkeypatch.setattr(feature_cache, "CLIPS_PER_FILE", 5)
    parts = extract_features(load_clips(str(table)), processor, num_frames=1, num_proc=workers)
    assert {split: rows[:] for split, rows in parts.items()} == {split: rows[:] for split, rows in whole.items()}
    sizes = [len(Dataset.from_file(str(path))) for path in folder.rglob("train-*-of-00003*.arrow")]
    assert sum(sizes) == 12 and max(sizes) <= 5


def test_what_a_killed_run_was_writing_goes(folder, table, processor):
    extract_features(load_clips(str(table)), processor, num_frames=1)
    (next(folder.rglob("train.arrow")).parent / "tmpabcdef").write_bytes(b"half")
    extract_features(load_clips(str(table)), processor, num_frames=1)
    assert names(folder) == ["test.arrow", "train.arrow", "validation.arrow"]


def test_a_second_run_waits_for_the_first(folder, table, processor):
    extract_features(load_clips(str(table)), processor, num_frames=1)
    place = next(folder.rglob("train.arrow")).parent
    run = threading.Thread(target=extract_features, args=(load_clips(str(table)), processor), kwargs={"num_frames": 1})
    with FileLock(place / ".lock"):
        run.start()
        run.join(1)
        assert run.is_alive()
    run.join(60)
    assert not run.is_alive()
