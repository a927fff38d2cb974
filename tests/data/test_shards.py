"""Clips in shards: what is written, taken up, refused and read back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from clip_files import LABELS, write_clips
from huggingface_hub import constants

from hf_emktd.data import ClipTable, extract_features, is_shards, load_shards, task_of, write_shards
from hf_emktd.data.clip_stream import ClipStream, Neighbours, read_shards, share_of
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeProcessor

SIZES = {"num_mel_bins": 16, "audio_length": 48, "image_size": 32}
PROCESSOR = CavMaeProcessor.from_config(CavMaeConfig(**SIZES))
USABLE = [f"train{index:02d}" for index in range(13) if index != 1]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def features(table, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    write_shards(ClipTable(table), folder, PROCESSOR, num_frames=3, clips_per_shard=4)
    return folder


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def media(request, table, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_shards(ClipTable(table), folder, store="media", container=request.param, clips_per_shard=4)
    return folder


def rows_by_id(rows) -> dict[str, dict]:
    return {row["clip_id"]: {"label": row["label"], "fbank": row["fbank"], "frames": row["frames"]} for row in rows}


def extracted(table, split: str) -> dict[str, dict]:
    return rows_by_id(extract_features(ClipTable(table), PROCESSOR, num_frames=3)[split])


class TestWriting:
    def test_index_says_what_is_there(self, features):
        index = load_shards(features)
        assert index.label_names == LABELS and {s: index.num_clips(s) for s in index.splits} == {
            "train": 12,
            "validation": 4,
        }
        for split in index.splits:
            for shard in index.splits[split]:
                content = (features / shard.file).read_bytes()
                assert shard.bytes == len(content) and shard.sha256 == hashlib.sha256(content).hexdigest()
        assert sorted(path.name for path in features.iterdir()) == ["README.md", "clips.json", "data", "shards.json"]

    def test_missing_and_odd_clips_are_counted(self, features):
        report = load_shards(features).report()
        assert report.counts == {"train": {"corrupt": 1, "silent": 1}}
        assert report.clip_ids("train", "silent") == ["train02"] and report.rows["train"] == 13
        problems = json.loads((features / "clips.json").read_text())["problems"]
        assert "train01.mp4" in problems[0]["reason"]
        assert "/" not in json.dumps(json.loads((features / "shards.json").read_text())["problems"])

    def test_training_clips_are_mixed_and_others_in_order(self, features):
        index = load_shards(features)
        train, validation = (read_shards(index, split)["clip_id"][:] for split in ("train", "validation"))
        assert sorted(train) == USABLE and train != USABLE
        assert validation == [f"validation{index:02d}" for index in range(4)]

    def test_features_are_those_of_extraction(self, features, table):
        for split in ("train", "validation"):
            assert rows_by_id(read_shards(load_shards(features), split)) == extracted(table, split)

    def test_processes_write_the_same_bytes(self, features, table, tmp_path):
        write_shards(ClipTable(table), tmp_path / "two", PROCESSOR, num_frames=3, clips_per_shard=4, num_proc=2)
        assert (tmp_path / "two" / "shards.json").read_text() == (features / "shards.json").read_text()

    def test_hub_card_makes_splits_loadable(self, features):
        head = (features / "README.md").read_text().split("---")[1]
        assert "split: validation\n    path: data/validation-*.parquet" in head
        rows = datasets.load_dataset(str(features), split="validation")
        assert rows.features["label"].names == LABELS and len(rows) == 4

    def test_media_are_the_files_themselves(self, media, table):
        rows = read_shards(load_shards(media), "validation")
        assert rows.features["label"].names == LABELS
        for row in rows:
            video = row["video"]["bytes"] if isinstance(row["video"], dict) else row["video"]
            assert video == (table.parent / f"{row['clip_id']}.mp4").read_bytes()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"store": "tokens"}, "store must be features or media"),
            ({"container": "zip"}, "container must be parquet or webdataset"),
            ({"container": "webdataset"}, "hold media files"),
            ({"clips_per_shard": 0}, "at least 1"),
            ({"processor": None}, "give its processor"),
        ],
    )
    def test_refusals(self, table, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            write_shards(ClipTable(table), tmp_path / "no", **({"processor": PROCESSOR} | options))
        assert not (tmp_path / "no").exists()


class TestResuming:
    def test_finished_shards_are_left_alone(self, features, table):
        before = {path: path.stat().st_mtime_ns for path in features.rglob("*")}
        write_shards(ClipTable(table), features, PROCESSOR, num_frames=3, clips_per_shard=4)
        assert {path: path.stat().st_mtime_ns for path in features.rglob("*")} == before

    def test_other_settings_need_another_folder(self, features, table):
        with pytest.raises(ValueError, match="finished shards of other clips or settings"):
            write_shards(ClipTable(table), features, PROCESSOR, num_frames=4, clips_per_shard=4)

    def test_after_a_kill_the_result_is_the_same(self, features, table, tmp_path):
        """Killed as soon as one shard is there; its file is not written again."""
        folder = tmp_path / "killed"
        code = (
            "import sys, time; sys.path.insert(0, sys.argv[1])\n"
            "import test_shards as t, hf_emktd.data.shard_writing as w\n"
            "write = w._write_shard\n"
            "w._write_shard = lambda task, read: (write(task, read), time.sleep(0.2))[0]\n"
            "w.write_shards(t.ClipTable(sys.argv[2]), sys.argv[3], t.PROCESSOR, num_frames=3, clips_per_shard=4)\n"
        )
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(table), str(folder)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while not list(folder.glob(".unfinished/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "shards.json").exists()
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("data/*.parquet")}
        with pytest.raises(ValueError, match="unfinished shards of other"):
            write_shards(ClipTable(table), folder, PROCESSOR, num_frames=4, clips_per_shard=4)
        write_shards(ClipTable(table), folder, PROCESSOR, num_frames=3, clips_per_shard=4)
        assert kept and all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
        assert (folder / "shards.json").read_text() == (features / "shards.json").read_text()


class TestOpening:
    def test_a_folder_of_shards_is_told_from_other_names(self, features, tmp_path):
        assert is_shards(features) and is_shards("someone/clips")
        assert not is_shards(tmp_path) and not is_shards("touchtone") and not is_shards("clips.csv")
        assert not is_shards("mine/clips.csv") and not is_shards("mine/clips.TSV")
        assert task_of(features) == "audio-visual-classification"
        with pytest.raises(FileNotFoundError, match=r"no shards\.json"):
            load_shards(tmp_path)

    def test_a_name_that_the_hub_does_not_know(self, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError, match="someone/clips is neither a folder"):
            load_shards("someone/clips")

    def test_features_for_another_model_are_refused(self, features):
        index = load_shards(features)
        index.check_settings(PROCESSOR)
        other = CavMaeProcessor.from_config(CavMaeConfig(**(SIZES | {"image_size": 48})))
        with pytest.raises(ValueError, match=r"inputs\.visual\.image_size: 32 stored, 48 wanted"):
            index.check_settings(other)

    def test_media_serve_any_model(self, media):
        load_shards(media).check_settings(PROCESSOR)

    def test_a_broken_index_is_named(self, features, tmp_path):
        (tmp_path / "shards.json").write_text(
            (features / "shards.json").read_text().replace('"format": 1', '"format": 9')
        )
        with pytest.raises(ValueError, match="is no index of clip shards"):
            load_shards(tmp_path)


class TestVerifying:
    def test_whole_shards(self, features, media):
        assert load_shards(features).damaged_files() == load_shards(media).damaged_files() == []

    def test_one_bit_and_a_file_that_is_gone(self, features, tmp_path):
        shutil.copytree(features, tmp_path / "shards")
        index = load_shards(tmp_path / "shards")
        first, *_, last = index.splits["train"]
        content = bytearray((tmp_path / "shards" / first.file).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "shards" / first.file).write_bytes(content)
        (tmp_path / "shards" / last.file).unlink()
        assert index.damaged_files() == [first.file, last.file]

    def test_of_the_hub_is_for_a_folder(self, features):
        index = load_shards(features)
        index.root = "hf://datasets/org/clips@main"
        with pytest.raises(ValueError, match="lies on the Hub; download it"):
            index.damaged_files()


class TestStream:
    def test_media_become_the_features_that_are_stored(self, media, table):
        stream = ClipStream(load_shards(media), "train", PROCESSOR, num_frames=3)
        assert rows_by_id(stream.rows()) == extracted(table, "train")

    @pytest.mark.parametrize("readers", [1, 2, 3, 5, 12])
    def test_readers_share_every_clip_once(self, features, readers):
        stream = ClipStream(load_shards(features), "train")
        drawn = Counter()
        for reader in range(readers):
            drawn.update(row["clip_id"] for row in stream.rows([3, 1], reader=reader, readers=readers, buffer_size=4))
        assert drawn == Counter(USABLE)

    def test_order_is_that_of_its_seed(self, features):
        stream = ClipStream(load_shards(features), "train")

        def order(*seed, **options):
            return [row["clip_id"] for row in stream.rows(list(seed), buffer_size=6, **options)]

        assert order(0, 1) == order(0, 1) != order(0, 2)
        assert sorted(order(0, 1)) == sorted(order(0, 1, part=1)) and order(0, 1) != order(0, 1, part=1)
        first = order(0, 1, reader=0, readers=3)
        assert set(first) == set(order(0, 1, part=1, reader=0, readers=3))

    def test_unknown_split(self, features):
        with pytest.raises(ValueError, match="no split 'test', only train, validation"):
            ClipStream(load_shards(features), "test")

    def test_shares_by_hand(self):
        order = [4, 2, 0, 1, 3]
        assert [share_of(order, reader, 2).files for reader in range(2)] == [[4, 0, 3], [2, 1]]
        shares = [share_of([1, 0], reader, 5) for reader in range(5)]
        assert [(share.files, share.offset, share.step) for share in shares] == [
            ([1], 0, 3),
            ([0], 0, 2),
            ([1], 1, 3),
            ([0], 1, 2),
            ([1], 2, 3),
        ]


def test_neighbours_pass_every_row_once_and_in_order():
    neighbours = Neighbours(num_classes=3, size=4)
    held = []
    rows = iter([{"clip_id": str(number)} for number in range(10)])
    passed = []
    for row in neighbours.pass_through(rows):
        passed.append(row["clip_id"])
        held.append({neighbours[index]["clip_id"] for index in range(len(neighbours))})
        assert row["clip_id"] in held[-1] and len(held[-1]) == 4
    assert passed == [str(number) for number in range(10)]
    assert held[0] == set("0123") and held[5] == set("5678") and held[9] == set("6789")
    assert np.unique([len(each) for each in held]) == [4]
