"""Report, source and the reading of a decoded clip's state."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from hf_emktd.data import Clip, ClipReport, ClipRow, ClipSource, load_clips, status_of, write_clip
from hf_emktd.data.clip_source import manifest_hash


def make_rows(folder: Path, sizes: dict[str, int], split: str = "train", label: str = "cat") -> list[ClipRow]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, size in sizes.items():
        (folder / f"{name}.mp4").write_bytes(bytes(size))
        rows.append(ClipRow(name, split, label, {"video": str(folder / f"{name}.mp4")}))
    return rows


class TestStatus:
    sound = np.array([0.0, 2e-4, 0.0], np.float32)
    moving = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)])

    @pytest.mark.parametrize(
        "waveform, frames, status",
        [
            (sound, moving, "ok"),
            (None, moving, "soundless"),
            (sound, None, "pictureless"),
            (None, None, "soundless"),
            (sound / 4, moving, "silent"),
            (np.zeros(0, np.float32), moving, "silent"),
            (sound, moving[[0, 0, 0]], "still"),
            (sound, moving[:1], "ok"),
        ],
    )
    def test_status_of(self, waveform, frames, status):
        assert status_of(Clip(Path("a.mp4"), waveform=waveform, frames=frames)) == status

    def test_still_bears_half_a_grey_level_of_coding_noise(self):
        frames = np.full((2, 10, 10, 3), 100, np.uint8)
        frames[1, :4] += 1
        assert status_of(Clip(Path("a.mp4"), waveform=self.sound, frames=frames)) == "still"
        frames[1, :6] = 101
        assert status_of(Clip(Path("a.mp4"), waveform=self.sound, frames=frames)) == "ok"

    def test_dark_next_to_bright_does_not_wrap_around(self):
        frames = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
        assert status_of(Clip(Path("a.mp4"), waveform=self.sound, frames=frames)) == "ok"


class TestReport:
    def make(self) -> ClipReport:
        report = ClipReport(rows={"train": 5, "test": 2}, found={"train": 3, "test": 2}, manifest_hash="ab" * 32)
        report.add("train", "missing", "b")
        report.add("train", "missing", "a")
        report.add("test", "corrupt", "c", "cannot be read")
        report.notes["duplicate_rows"] = 4
        return report

    def test_counts_ids_and_summary(self):
        report = self.make()
        assert report.counts == {"train": {"missing": 2}, "test": {"corrupt": 1}}
        assert report.clip_ids("train", "missing") == ["a", "b"]
        assert report.summary() == (
            "train: 5 rows, 3 found, 2 missing. test: 2 rows, 2 found, 1 corrupt. 4 duplicate rows. "
            "Manifest abababababab."
        )

    def test_noting_twice_counts_once(self):
        report = self.make()
        report.add("test", "corrupt", "c")
        assert report.counts["test"] == {"corrupt": 1}
        assert report.problems[0]["reason"] == "cannot be read"

    def test_a_clip_lost_twice_is_taken_out_once(self):
        report = self.make()
        for _ in range(2):
            report.lose("test", "d", "vanished")
        assert report.found == {"train": 3, "test": 1} and report.counts["test"] == {"corrupt": 1, "missing": 1}

    def test_unknown_kind(self):
        with pytest.raises(ValueError, match="unknown kind 'lost' for clip 'a'; it must be one of missing, corrupt"):
            ClipReport().add("train", "lost", "a")

    def test_saved_file(self, tmp_path):
        self.make().save(tmp_path / "new" / "report.json")
        content = json.loads((tmp_path / "new" / "report.json").read_text())
        assert content["rows"] == {"train": 5, "test": 2} and content["found"] == {"train": 3, "test": 2}
        assert content["counts"] == {"train": {"missing": 2}, "test": {"corrupt": 1}}
        assert content["manifest_hash"] == "ab" * 32
        assert [(p["split"], p["kind"], p["clip_id"], p["reason"]) for p in content["problems"]] == [
            ("test", "corrupt", "c", "cannot be read"),
            ("train", "missing", "a", "the table names it but no file is there"),
            ("train", "missing", "b", "the table names it but no file is there"),
        ]
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


class TestManifestHash:
    def test_known_value(self, tmp_path):
        rows = make_rows(tmp_path, {"b": 7, "a": 5})
        content = '[["a","train","cat",[["video",5]]],["b","train","cat",[["video",7]]]]'
        assert manifest_hash(rows) == hashlib.sha256(content.encode()).hexdigest()

    def test_neither_place_nor_order_matters(self, tmp_path):
        here, there = make_rows(tmp_path / "x", {"a": 5, "b": 7}), make_rows(tmp_path / "y" / "z", {"b": 7, "a": 5})
        assert manifest_hash(here) == manifest_hash(there)

    @pytest.mark.parametrize(
        "change", [{"sizes": {"a": 6}}, {"sizes": {"b": 5}}, {"split": "test"}, {"label": "dog"}], ids=str
    )
    def test_size_name_split_and_label_matter(self, tmp_path, change):
        before = manifest_hash(make_rows(tmp_path / "x", {"a": 5}))
        assert manifest_hash(make_rows(tmp_path / "y", **{"sizes": {"a": 5}, **change})) != before


class TestSource:
    def test_splits_have_fixed_label_ids(self, tmp_path):
        rows = make_rows(tmp_path, {"a": 1}, label="dog") + make_rows(tmp_path, {"b": 1}, split="test", label="cat")
        source = ClipSource.from_rows(["ant", "cat", "dog"], rows, ClipReport(rows={"train": 1, "test": 3}))
        assert list(source.splits) == ["train", "test"]
        assert source.splits["train"]["label"] == [2] and source.splits["test"]["label"] == [1]
        assert source.splits["train"].features["label"].names == source.label_names == ["ant", "cat", "dog"]
        assert source.splits["train"].column_names == ["clip_id", "label", "video"]
        assert source.report.found == {"train": 1, "test": 1}

    def test_scenes_have_lists_of_paths(self, tmp_path):
        for name, size in (("a.png", 3), ("b.png", 4), ("c.png", 5)):
            (tmp_path / name).write_bytes(bytes(size))
        files = {
            "frames": [str(tmp_path / "a.png"), str(tmp_path / "b.png")],
            "masks": [str(tmp_path / "c.png"), None],
        }
        row = ClipRow("scene", "train", "cat", {**files, "video": None})
        source = ClipSource.from_rows(["cat"], [row], ClipReport(rows={"train": 1}))
        assert source.splits["train"].column_names == ["clip_id", "label", "video", "frames", "masks"]
        assert source.splits["train"][0] == {"clip_id": "scene", "label": 0, "video": None, **files}
        content = '[["scene","train","cat",[["frames",[3,4]],["masks",[5,-1]],["video",-1]]]]'
        assert source.report.manifest_hash == hashlib.sha256(content.encode()).hexdigest()

    def test_stream_gives_the_same_rows(self, tmp_path):
        source = ClipSource.from_rows(["cat"], make_rows(tmp_path, {"a": 1, "b": 1}), ClipReport(rows={"train": 2}))
        assert list(source.stream("train")) == list(source.splits["train"])
        with pytest.raises(ValueError, match="no split 'test'; there are train"):
            source.stream("test")


class TestLoadClips:
    def test_table_by_path(self, tmp_path):
        write_clip(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 2)
        (tmp_path / "clips.csv").write_text("split,label,video\ntrain,cat,a.mp4\n")
        assert load_clips(tmp_path / "clips.csv").splits["train"]["clip_id"] == ["a"]

    def test_table_with_its_clips_elsewhere(self, tmp_path):
        make_rows(tmp_path / "clips", {"a": 3})
        (tmp_path / "clips.tsv").write_text("split\tlabel\tvideo\ntrain\tcat\ta.mp4\n")
        source = load_clips(str(tmp_path / "clips.tsv"), data_dir=tmp_path / "clips", label_names=["ant", "cat"])
        assert source.splits["train"]["label"] == [1]

    def test_unknown_name(self):
        with pytest.raises(
            ValueError,
            match="unknown data set 'vggsnd'; expected 'vggsound', 'touchtone', 'avsbench', 'touchtone_scenes' or",
        ):
            load_clips("vggsnd")

    def test_vggsound_needs_a_folder(self):
        with pytest.raises(ValueError, match="'vggsound' needs data_dir"):
            load_clips("vggsound")
