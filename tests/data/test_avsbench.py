"""AVSBench: the three subsets as they lie on disk, what is missing, and tables that cannot be read."""

import shutil
from pathlib import Path

import pytest
from scene_files import write_avss, write_csv, write_ms3, write_s4

from hf_emktd.data import AVSBench, load_clips, task_of

OFFICIAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "avsbench"
S4 = {"b": ("train", "dog"), "a": ("train", "ant"), "c": ("val", "dog"), "d": ("test", "cat")}


def names_of(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


class TestSingleSource:
    def test_rows(self, tmp_path):
        folder = write_s4(tmp_path, S4)
        source = AVSBench(tmp_path)
        assert source.label_names == ["ant", "cat", "dog"]
        assert source.report.rows == source.report.found == {"train": 2, "validation": 1, "test": 1}
        assert source.report.counts == {}
        row = source.splits["validation"][0]
        data = folder / "s4_data"
        assert row["clip_id"] == "c" and row["label"] == 2 and row["video"] is None
        assert row["audio"] == str(data / "audio_wav" / "val" / "dog" / "c.wav")
        assert row["frames"] == [str(data / f"visual_frames/val/dog/c/c_{k}.png") for k in range(1, 6)]
        assert row["masks"] == [str(data / f"gt_masks/val/dog/c/c_{k}.png") for k in range(1, 6)]

    def test_training_has_the_mask_of_the_first_frame_only(self, tmp_path):
        folder = write_s4(tmp_path, S4)
        masks = folder / "s4_data" / "gt_masks" / "train" / "dog" / "b"
        shutil.copy(masks / "b_1.png", masks / "b_2.png")
        row = AVSBench(tmp_path).splits["train"][0]
        assert row["masks"] == [str(masks / "b_1.png"), None, None, None, None]

    @pytest.mark.parametrize(
        "place", ["Single-source", "avsbench_data/Single-source", "AVSBench_object/Single-source"]
    )
    def test_the_folder_or_one_above(self, tmp_path, place):
        write_s4(tmp_path / "there", S4)
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "there" / "Single-source", tmp_path / place)
        assert len(AVSBench(tmp_path).splits["train"]) == len(AVSBench(tmp_path / place).splits["train"]) == 2


class TestMultipleSources:
    @pytest.mark.parametrize("frame_infix", ["", ".mp4"])
    @pytest.mark.parametrize("mask_infix", ["", ".mp4"])
    def test_rows(self, tmp_path, frame_infix, mask_infix):
        write_ms3(tmp_path, {"a": "train", "b": "val"}, frame_infix, mask_infix)
        source = AVSBench(tmp_path, subset="ms3")
        assert source.label_names == ["sounding"] and source.report.counts == {}
        row = source.splits["train"][0]
        assert row["label"] == 0 and row["audio"].endswith("audio_wav/train/a.wav")
        assert names_of(row["frames"]) == [f"a{frame_infix}_{k}.png" for k in range(1, 6)]
        assert names_of(row["masks"]) == [f"a{mask_infix}_{k}.png" for k in range(1, 6)]
        assert "visual_frames/a/" in row["frames"][0] and "gt_masks/train/a/" in row["masks"][0]


class TestSemantic:
    def test_rows(self, tmp_path):
        write_avss(
            tmp_path, {"a": ("train", "v1s"), "b": ("train", "v1m"), "c": ("train", "v2"), "d": ("test", "v1s")}
        )
        source = AVSBench(tmp_path, subset="avss")
        assert source.label_names == ["v1s", "v1m", "v2"] and source.report.counts == {}
        rows = {row["clip_id"]: row for row in source.splits["train"]}
        assert names_of(rows["a"]["frames"]) == [f"{k}.jpg" for k in range(5)]
        assert [mask is not None for mask in rows["a"]["masks"]] == [True] + [False] * 4
        assert names_of(rows["b"]["masks"]) == [f"{k}.png" for k in range(5)]
        assert len(rows["c"]["frames"]) == len(rows["c"]["masks"]) == 10
        assert None not in source.splits["test"][0]["masks"]
        assert rows["c"]["audio"] == str(tmp_path / "v2" / "c" / "audio.wav")

    def test_an_unknown_kind_is_refused(self, tmp_path):
        write_avss(tmp_path, {"a": ("train", "v1s"), "b": ("train", "v3")})
        with pytest.raises(ValueError, match=r"line 3: unknown label 'v3', not one of the 3 classes"):
            AVSBench(tmp_path, subset="avss")


class TestIncomplete:
    @pytest.fixture
    def data(self, tmp_path) -> Path:
        write_s4(tmp_path, S4)
        return tmp_path / "Single-source" / "s4_data"

    def problems(self, data: Path) -> list[tuple[str, str, str]]:
        report = AVSBench(data.parents[1]).report
        return [(problem["kind"], problem["clip_id"], problem["reason"]) for problem in report.problems]

    def test_missing_frames(self, data):
        (data / "visual_frames/train/dog/b/b_3.png").unlink()
        shutil.rmtree(data / "visual_frames/test/cat/d")
        (first, second) = self.problems(data)
        assert first[:2] == ("missing", "d") and first[2].endswith("d_1.png")
        assert second[:2] == ("missing", "b") and second[2].endswith("b_3.png")
        source = AVSBench(data.parents[1])
        assert "test" not in source.splits and source.label_names == ["ant", "cat", "dog"]
        assert source.report.found == {"train": 1, "validation": 1, "test": 0}

    def test_missing_masks(self, data):
        (data / "gt_masks/train/dog/b/b_1.png").unlink()
        (data / "gt_masks/val/dog/c/c_5.png").unlink()
        assert [problem[:2] for problem in self.problems(data)] == [("maskless", "b"), ("maskless", "c")]
        assert AVSBench(data.parents[1]).splits["train"]["clip_id"][:] == ["a"]

    @pytest.mark.parametrize("name", ["visual_frames/train/dog/b/b_3.png", "gt_masks/train/dog/b/b_1.png"])
    def test_empty_files(self, data, name):
        (data / name).write_bytes(b"")
        ((kind, clip_id, reason),) = self.problems(data)
        assert (kind, clip_id) == ("corrupt", "b") and "empty (0 bytes)" in reason

    def test_raw_video_in_place_of_frames(self, data):
        (data / "visual_frames/train/dog/b/b_3.png").write_bytes(b"")
        (data / "visual_frames/train/dog/b/b_5.png").unlink()
        (data / "raw_videos/train/dog").mkdir(parents=True)
        (data / "raw_videos/train/dog/b.mkv").write_bytes(b"video")
        row = AVSBench(data.parents[1]).splits["train"][0]
        assert row["frames"] == [] and row["video"].endswith("b.mkv") and row["audio"].endswith("b.wav")
        assert len(row["masks"]) == 5

    def test_raw_video_in_place_of_sound(self, data):
        (data / "audio_wav/train/dog/b.wav").unlink()
        (data / "raw_videos/train/dog").mkdir(parents=True)
        (data / "raw_videos/train/dog/b.mp4").write_bytes(b"video")
        row = AVSBench(data.parents[1]).splits["train"][0]
        assert row["audio"] is None and row["video"].endswith("b.mp4") and len(row["frames"]) == 5
        assert self.problems(data) == []

    def test_soundless(self, data):
        (data / "audio_wav/train/dog/b.wav").unlink()
        ((kind, clip_id, reason),) = self.problems(data)
        assert (kind, clip_id) == ("soundless", "b") and "b.wav" in reason and "pickle" not in reason

    def test_pickled_spectrograms_are_named_but_not_read(self, data):
        (data / "audio_wav/train/dog/b.wav").unlink()
        (data / "audio_log_mel/train/dog").mkdir(parents=True)
        (data / "audio_log_mel/train/dog/b.pkl").write_bytes(b"cos\nabort\n(tR.")
        assert "b.pkl is a pickle and not read" in self.problems(data)[0][2]

    def test_nothing_there(self, data):
        shutil.rmtree(data)
        with pytest.raises(FileNotFoundError, match=r"none of the 4 scenes.*such as .*b_1.png; unpack"):
            AVSBench(data.parents[1])


class TestTables:
    def test_no_table(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no ms3_meta_data.csv in .*Multi-sources.*https://github.com"):
            AVSBench(tmp_path, subset="ms3")

    def test_unknown_subset(self, tmp_path):
        with pytest.raises(ValueError, match="unknown subset 's5'; expected 's4', 'ms3', 'avss'"):
            AVSBench(tmp_path, subset="s5")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([("name", "split"), ("a", "train")], "no column category; got"),
            ([("name", "category", "split"), ("a", "dog", "eval")], "line 2, column split: unknown split 'eval'"),
            ([("name", "category", "split"), ("../a", "dog", "val")], "line 2, column name: expected the name of"),
            ([("name", "category", "split"), ("a", "..", "val")], "line 2, column category: expected the name of"),
            ([("name", "category", "split"), ("a", "", "val")], "line 2, column category: expected the name of"),
            ([("name", "category", "split"), ("a", "dog")], "line 2: more or fewer fields than the header"),
            (
                [("name", "category", "split"), ("a", "dog", "val"), ("a", "cat", "val")],
                "line 3: .* contradicts .*; remove one",
            ),
        ],
    )
    def test_rows_that_cannot_be_read(self, tmp_path, rows, message):
        write_csv(tmp_path / "Single-source" / "s4_meta_data.csv", rows)
        with pytest.raises(ValueError, match=message):
            AVSBench(tmp_path)

    def test_duplicates_are_counted(self, tmp_path):
        folder = write_s4(tmp_path, S4)
        with open(folder / "s4_meta_data.csv", "a") as file:
            file.write("a,0,ant,train\n")
        assert AVSBench(tmp_path).report.notes == {"duplicate_rows": 1}

    @pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official tables are not at hand")
    @pytest.mark.parametrize(
        ("subset", "folder", "counts", "classes"),
        [
            ("s4", "Single-source", {"train": 3452, "validation": 740, "test": 740}, 23),
            ("ms3", "Multi-sources", {"train": 296, "validation": 64, "test": 64}, 1),
        ],
    )
    def test_official_tables(self, tmp_path, subset, folder, counts, classes):
        table = OFFICIAL / f"{subset}_meta_data.csv"
        # one scene on disk is enough for a source
        if subset == "s4":
            write_s4(tmp_path, {"-_wznbUu3DY": ("train", "helicopter")})
        else:
            write_ms3(tmp_path, {"jlhuZfcw61w": "train"})
        shutil.copy(table, tmp_path / folder / table.name)
        source = AVSBench(tmp_path, subset=subset)
        assert source.report.rows == counts and source.report.found == dict.fromkeys(counts, 0) | {"train": 1}
        assert sum(kinds["missing"] for kinds in source.report.counts.values()) == sum(counts.values()) - 1
        assert len(source.label_names) == classes


def test_by_name(tmp_path):
    write_ms3(tmp_path, {"a": "train"})
    assert load_clips("avsbench", tmp_path, subset="ms3").label_names == ["sounding"]
    with pytest.raises(ValueError, match="'avsbench' needs data_dir, the folder with Single-source"):
        load_clips("avsbench")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("avsbench", "segmentation"),
        ("touchtone_scenes", "segmentation"),
        ("vggsound", "classification"),
        ("touchtone", "classification"),
        ("my/clips.csv", "classification"),
    ],
)
def test_task_of(name, task):
    assert task_of(name) == f"audio-visual-{task}"


def test_task_of_an_unknown_name():
    with pytest.raises(ValueError, match="unknown data set 'avs'"):
        task_of("avs")
