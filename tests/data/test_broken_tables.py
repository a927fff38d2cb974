"""A sample of the torture of tables and of files that come and go: exact counts and fixed numbers, or one refusal."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from pathlib import Path

import datasets
import pytest
from clip_files import write_clips

from damaged_tables import check_damaged_tables
from hf_emktd.data import AVSBench, ClipTable, VGGSound, extract_features, write_shards
from hf_emktd.models.cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor

HEAD = "split,label,video\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4", "sub/a.mp4", "a_3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "clips.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestText:
    @pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
    def test_marks_line_ends_quotes_and_empty_rows(self, folder, ends, mark):
        rows = ["split,label,video", 'train,"dog, ""big""", a.mp4 ', ",,", "", " , , ", '"train",cat,"b.mp4"', ",,"]
        source = ClipTable(table(folder, mark + ends.join(rows)))
        assert source.label_names == ["cat", 'dog, "big"']
        assert source.splits["train"]["label"] == [1, 0] and source.report.rows == {"train": 2}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (HEAD + 'train,dog,"a.mp4\ntrain,cat,b.mp4\n', "line 3: unexpected end of data; close every quote"),
            (HEAD + 'train,"dog,a.mp4\n' + "train,cat,b.mp4\n" * 9000, "field larger than field limit"),
            (HEAD + 'train,"dog"s,a.mp4\n', r"line 2: ',' expected after '\"'"),
            ("split,label,video,video\ntrain,dog,a.mp4,b.mp4\n", "column 'video' twice in the header"),
            (("\ufeff" + HEAD + "train,dog,a.mp4\n").encode("utf-16-le"), "not UTF-8|no column split"),
            (bytes(1000), "no column split"),
        ],
        ids=["open quote", "open quote of a long table", "text behind a quote", "column twice", "UTF-16", "zeros"],
    )
    def test_what_cannot_be_read_is_refused(self, folder, content, message):
        with pytest.raises(ValueError, match=message):
            ClipTable(table(folder, content))

    @pytest.mark.parametrize("load", [VGGSound, AVSBench])
    def test_so_are_tables_of_data_sets(self, tmp_path, load):
        name = "vggsound.csv" if load is VGGSound else "s4_meta_data.csv"
        head = "" if load is VGGSound else "name,category,split\n"
        (tmp_path / name).write_text(head + 'glLQrEijrKg,300,"playing hammond organ,test\n' * 3)
        with pytest.raises(ValueError, match=rf"{name}, line \d+: .*close every quote"):
            load(tmp_path)
        (tmp_path / name).write_bytes(head.encode() + "glLQrEijrKg,300,Bär,test\n".encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name}: not UTF-8 text"):
            load(tmp_path)


class TestRows:
    def test_equal_rows_are_one(self, folder):
        rows = "train,dog,a.mp4\n" * 3 + "train,cat,b.mp4\n" + "test,dog,a.mp4\n"
        report = ClipTable(table(folder, HEAD + rows)).report
        assert report.rows == {"train": 2, "test": 1}
        assert report.notes == {"duplicate_rows": 2, "files_in_several_rows": 1}
        assert "2 duplicate rows, such as line 3. 1 files in several rows, such as 'a.mp4'." in report.summary()

    def test_default_ids_give_way_to_names_and_to_given_ids(self, folder):
        rows = "train,dog,a.mp4,\ntrain,dog,sub/a.mp4,\ntrain,dog,a_3.mp4,\ntrain,dog,b.mp4,\ntrain,dog,c.mp4,b\n"
        ids = ClipTable(table(folder, "split,label,video,clip_id\n" + rows)).splits["train"]["clip_id"]
        assert ids == ["a_2", "a_3_3", "a_3", "b_5", "b"]

    def test_labels_that_look_alike_stay_apart_and_are_told(self, folder):
        labels = ["Dog", "dog", "d\u00f6g", "do\u0308g", "cat", "big  dog", "big dog"]
        rows = "".join(f"train,{label},{name}.mp4\n" for label, name in zip(labels, "abcabca", strict=True))
        source = ClipTable(table(folder, HEAD + rows))
        assert source.label_names == sorted(labels) and source.report.notes["labels_alike"] == 6
        assert "6 labels alike, such as" in source.report.summary()

    def test_a_known_label_in_another_case_is_suggested(self, folder):
        with pytest.raises(ValueError, match="unknown label 'DOG', not one of the 2 classes; did you mean 'dog'"):
            ClipTable(table(folder, HEAD + "train,DOG,a.mp4\n"), label_names=["dog", "cat"])


class TestPaths:
    def test_absolute_paths_below_the_root_need_no_consent(self, folder):
        source = ClipTable(table(folder, HEAD + f"train,dog,{folder}/a.mp4\ntrain,dog,sub/../b.mp4\n"))
        assert source.splits["train"]["video"] == [str(folder / "a.mp4"), str(folder / "b.mp4")]

    def test_dots_behind_a_link_lead_nowhere_else(self, folder, tmp_path_factory):
        outside = tmp_path_factory.mktemp("outside")
        (outside / "secret.mp4").write_bytes(b"content")
        (outside / "inner").mkdir()
        (folder / "link").symlink_to(outside / "inner")
        rows = "train,dog,a.mp4\ntrain,dog,link/../secret.mp4\n"
        assert ClipTable(table(folder, HEAD + rows)).report.counts == {"train": {"missing": 1}}
        assert ClipTable(table(folder, HEAD + rows), allow_outside_root=True).report.counts == {}

    def test_a_dangling_link_is_missing(self, tmp_path):
        name = "glLQrEijrKg_000300"
        (tmp_path / "vggsound.csv").write_text("glLQrEijrKg,300,people coughing,test\nother,1,people coughing,test\n")
        (tmp_path / f"{name}.mp4").symlink_to(tmp_path / "nowhere")
        (tmp_path / "other_000001.mp4").write_bytes(b"content")
        assert VGGSound(tmp_path).report.clip_ids("test", "missing") == [name]


class TestStrict:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("train,dog,a.mp4\ntrain,dog,lost.mp4\n", "clip 'lost' is missing: no file .*lost.mp4; put it right, or"),
            ("train,dog,a.mp4\ntrain,dog,a.mp4\n", "1 duplicate rows, such as line 3; put it right, or"),
            ("train,dog,a.mp4\ntrain,Dog,b.mp4\n", "2 labels alike, such as 'Dog' and 'dog'; put it right, or"),
            ("train,dog,a.mp4\ntest,dog,a.mp4\n", "1 files in several rows, such as 'a.mp4'"),
        ],
    )
    def test_what_was_met_before_is_refused(self, folder, rows, message):
        report = ClipTable(table(folder, HEAD + rows)).report
        with pytest.raises(ValueError, match=message):
            report.refuse_problems()

    def test_usable_clips_are_not(self, folder):
        report = ClipTable(table(folder, HEAD + "train,dog,a.mp4\n")).report
        report.add("train", "silent", "a")
        report.refuse_problems()
        report.add("train", "still", "a")
        with pytest.raises(ValueError, match="clip 'a' is corrupt: cannot be read; put it right"):
            report.add("train", "corrupt", "a", "cannot be read")


def test_damaged_tables_are_read_or_refused(tmp_path):
    read, refused = check_damaged_tables(tmp_path, range(240))
    assert read > 40 and refused > 40


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def processor() -> CavMaeProcessor:
    return CavMaeProcessor(
        CavMaeFeatureExtractor(num_mel_bins=16, audio_length=64), CavMaeImageProcessor(image_size=32)
    )


class TestVanishingFiles:
    LOST = ("train03", "train09", "validation02")

    @pytest.fixture
    def path(self, clips, tmp_path, monkeypatch) -> Path:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        return shutil.copytree(clips.parent, tmp_path / "clips") / clips.name

    def vanish(self, path: Path) -> None:
        for name in self.LOST:
            (path.parent / f"{name}.mp4").rename(path.parent / f"{name}.away")

    def return_(self, path: Path) -> None:
        for name in self.LOST:
            (path.parent / f"{name}.away").rename(path.parent / f"{name}.mp4")

    def test_are_counted_as_missing_and_read_when_they_are_back(self, path, processor, caplog):
        source = ClipTable(path)
        self.vanish(path)
        features = extract_features(source, processor)
        assert source.report.counts == {
            "train": {"corrupt": 1, "silent": 1, "missing": 2},
            "validation": {"missing": 1},
        }
        assert source.report.found == {"train": 11, "validation": 3}
        assert {split: len(rows) for split, rows in features.items()} == {"train": 10, "validation": 3}
        assert features["train"]["label"] == [int(name[5:]) % 3 for name in features["train"]["clip_id"]]
        # gone for good: the next run finds them missing in the table, and its key is another
        source = ClipTable(path)
        assert source.report.rows == {"train": 13, "validation": 4}
        assert len(extract_features(source, processor)["train"]) == 10 and source.report.found["train"] == 11
        # back again: nothing of the run without them stays
        self.return_(path)
        source = ClipTable(path)
        assert len(extract_features(source, processor)["train"]) == 12 and source.report.found["train"] == 13

    def test_a_run_has_one_summary(self, path, processor, caplog):
        source = ClipTable(path)
        self.vanish(path)
        logging.getLogger("transformers").propagate = True
        with caplog.at_level(logging.WARNING):
            extract_features(source, processor)
        logging.getLogger("transformers").propagate = False
        told = [record.getMessage() for record in caplog.records if "rows" in record.getMessage()]
        assert len(told) == 1 and told[0].startswith(source.report.summary())
        assert told[0].startswith("train: 13 rows, 11 found, 2 missing, 1 corrupt, 1 silent.")
        assert " Left out, such as train01: " in told[0]

    def test_end_a_strict_run(self, path, processor):
        (path.parent / "train01.mp4").write_bytes((path.parent / "train00.mp4").read_bytes())
        source = ClipTable(path)
        source.report.refuse_problems()
        extract_features(source, processor)
        self.vanish(path)
        os.utime(path.parent / "train00.mp4", (0, 0))
        with pytest.raises(ValueError, match=r"clip 'train03' is missing: .*train03.mp4: does not exist"):
            extract_features(source, processor)

    @pytest.mark.parametrize("store", ["features", "media"])
    def test_are_left_out_of_shards(self, path, processor, store, tmp_path):
        source = ClipTable(path)
        self.vanish(path)
        index = write_shards(source, tmp_path / "shards", processor, store=store, clips_per_shard=4)
        assert (index.num_clips("train"), index.num_clips("validation")) == (10, 3)
        assert index.rows == {"train": 13, "validation": 4} and index.found == {"train": 11, "validation": 3}
        assert index.problems["train"] == {
            "corrupt": ["train01"],
            "silent": ["train02"],
            "missing": list(self.LOST[:2]),
        }

    def test_end_strict_shards(self, path, processor, tmp_path):
        source = ClipTable(path)
        source.report.refuse_problems()
        with pytest.raises(ValueError, match="clip 'train01' is corrupt"):
            write_shards(source, tmp_path / "shards", processor, clips_per_shard=4)


def test_writer_of_tables_is_pythons_own(tmp_path):
    """Whatever Python's csv module writes is read back."""
    labels = ['a "b"', "c,d", "e\nf", "g\r\nh", "'j'", ";", "\u2028k"]
    (tmp_path / "a.mp4").write_bytes(b"content")
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([["split", "label", "video"], *(["train", label, "a.mp4"] for label in labels)])
    assert ClipTable(tmp_path / "clips.csv").label_names == sorted(label.strip() for label in labels)
