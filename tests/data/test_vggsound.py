"""The VGGSound layout, on folders made here and, where at hand, on the official test table."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from hf_emktd.data import VGGSound, load_clips
from hf_emktd.data.vggsound import index_vggsound_layout, vggsound_super_categories

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "vggsound"

TABLE = (
    "-a_b-c_d-e0,3,people coughing,train\n"
    '__-__-__-__,120,"bird chirping, tweeting",train\n'
    "glLQrEijrKg,300,playing hammond organ,test\n"
    "lostlostlos,0,people coughing,test\n"
)
NAMES = ["-a_b-c_d-e0_000003", "__-__-__-___000120", "glLQrEijrKg_000300"]


def put(path: Path, size: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vggsound.csv").write_text(TABLE)
    return tmp_path


def found(source) -> dict[str, str]:
    return {row["clip_id"]: row["video"] for split in source.splits.values() for row in split}


def test_class_list_is_the_official_one():
    categories = vggsound_super_categories()
    names = list(categories)
    assert len(names) == len(set(names)) == 309
    assert names == sorted(names)
    assert (names[0], names[308]) == ("air conditioning noise", "zebra braying")
    assert categories["bird chirping, tweeting"] == "animals"
    assert set(categories.values()) == {
        "animals", "home", "music", "nature", "others", "people", "sports", "tools", "vehicle"
    }  # fmt: skip


class TestLayouts:
    @pytest.mark.parametrize(
        "places",
        [
            ["{}.mp4"] * 3,
            ["clips/{}.mp4"] * 3,
            ["video/{}.webm", "video/{}.mkv", "video/{}.MP4"],
            ["train/{}.mp4", "train/{}.mp4", "test/{}.mp4"],
            ["clips/people coughing/{}.mp4", "clips/bird chirping, tweeting/{}.mp4", "clips/playing organ/{}.mp4"],
            ["vggsound_00/scratch/shared/beegfs/hchen/train_data/VGGSound_final/video/{}.mp4", "vggsound_01/{}.mp4",
             "vggsound_19/a/b/{}.mp4"],
        ],
        ids=["flat", "clips", "containers", "splits", "classes", "archives"],
    )  # fmt: skip
    def test_clips_are_found_by_name_in_any_folder(self, folder, places):
        paths = {name: put(folder / place.format(name)) for name, place in zip(NAMES, places, strict=True)}
        source = VGGSound(folder)
        assert found(source) == {name: str(path) for name, path in paths.items()}
        assert source.report.rows == {"train": 2, "test": 2}
        assert source.report.found == {"train": 2, "test": 1}
        assert source.report.counts == {"test": {"missing": 1}}
        assert source.report.clip_ids("test", "missing") == ["lostlostlos_000000"]

    def test_sound_and_frame_folders_of_cav_mae(self, folder):
        for name in NAMES[:2]:
            put(folder / "audio" / f"{name}.wav")
        for frame in (0, 4, 6, 9):
            put(folder / "frames" / f"frame_{frame}" / f"{NAMES[0]}.jpg")
        put(folder / "frames" / "frame_5" / f"{NAMES[2]}.jpg")
        source = VGGSound(folder)
        train = {row["clip_id"]: row for row in source.splits["train"]}
        # frame 5 is evaluated, or the next lower one that is there
        assert train[NAMES[0]]["image"] == str(folder / "frames" / "frame_4" / f"{NAMES[0]}.jpg")
        assert train[NAMES[0]]["audio"] == str(folder / "audio" / f"{NAMES[0]}.wav")
        assert train[NAMES[1]]["image"] is None
        assert source.splits["test"][0]["audio"] is None
        assert source.report.counts == {"train": {"pictureless": 1}, "test": {"soundless": 1, "missing": 1}}

    def test_other_files_are_left_alone(self, folder):
        put(folder / f"{NAMES[0]}.mp4")
        for name in (f"{NAMES[1]}.mp4.part", f"{NAMES[1]}.json", f"x{NAMES[1]}.mp4", f".cache/{NAMES[1]}.mp4"):
            put(folder / name)
        assert list(found(VGGSound(folder))) == [NAMES[0]]

    def test_duplicates_are_chosen_by_ending_then_depth_then_name(self, folder):
        for name in ("b/{}.mp4", "a/{}.mp4", "{}.mkv", "a/a/{}.mp4"):
            put(folder / name.format(NAMES[0]))
        source = VGGSound(folder)
        assert found(source) == {NAMES[0]: str(folder / "a" / f"{NAMES[0]}.mp4")}
        assert source.report.notes == {"duplicate_files": 1}

    def test_linked_folders_are_followed_once(self, folder, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("disk")
        put(elsewhere / f"{NAMES[0]}.mp4")
        (elsewhere / "back").symlink_to(elsewhere)
        (folder / "clips").symlink_to(elsewhere)
        source = VGGSound(folder)
        assert found(source) == {NAMES[0]: str(folder / "clips" / f"{NAMES[0]}.mp4")}
        assert source.report.notes == {}

    def test_empty_files_count_as_corrupt(self, folder):
        put(folder / f"{NAMES[0]}.mp4")
        put(folder / f"{NAMES[1]}.mp4", size=0)
        source = VGGSound(folder)
        assert list(found(source)) == [NAMES[0]]
        assert source.report.clip_ids("train", "corrupt") == [NAMES[1]]


class TestLabels:
    def test_ids_do_not_depend_on_which_files_exist(self, folder):
        put(folder / f"{NAMES[2]}.mp4")
        few = VGGSound(folder)
        for name in NAMES:
            put(folder / f"{name}.mp4")
        many = VGGSound(folder)
        names = list(vggsound_super_categories())
        assert few.label_names == many.label_names == names
        assert few.splits["test"]["label"] == many.splits["test"]["label"] == [names.index("playing hammond organ")]
        assert few.splits["test"].features["label"].num_classes == 309
        assert few.report.manifest_hash != many.report.manifest_hash

    def test_unknown_label_names_the_nearest(self, folder):
        (folder / "vggsound.csv").write_text("glLQrEijrKg,300,playing hamond organ,test\n")
        with pytest.raises(ValueError, match=r"csv, line 1: unknown label .*did you mean 'playing hammond organ'"):
            VGGSound(folder)

    def test_own_classes_in_this_layout(self, folder):
        (folder / "own.csv").write_text("glLQrEijrKg,300,b,validation\n")
        put(folder / "clips" / f"{NAMES[2]}.mp4")
        source = index_vggsound_layout(folder / "own.csv", folder / "clips", ["a", "b"])
        assert source.splits["validation"]["label"] == [1] and source.label_names == ["a", "b"]


class TestTables:
    def test_two_columns_take_the_split_from_the_file_name(self, tmp_path):
        (tmp_path / "test.csv").write_text("glLQrEijrKg_000300.mp4,playing hammond organ\n")
        put(tmp_path / f"{NAMES[2]}.mp4")
        assert found(VGGSound(tmp_path)) == {NAMES[2]: str(tmp_path / f"{NAMES[2]}.mp4")}
        assert list(VGGSound(tmp_path).splits) == ["test"]

    def test_annotations_and_clips_may_lie_elsewhere(self, folder, tmp_path_factory):
        clips = tmp_path_factory.mktemp("clips")
        put(clips / f"{NAMES[0]}.mp4")
        (folder / "annotations").mkdir()
        (folder / "vggsound.csv").rename(folder / "annotations" / "vggsound.csv")
        assert list(found(VGGSound(folder, clips_dir=clips))) == [NAMES[0]]
        assert list(found(VGGSound("nowhere", clips_dir=clips, annotations=folder / "annotations/vggsound.csv"))) == [
            NAMES[0]
        ]

    def test_byte_order_mark_windows_lines_blank_lines_and_duplicates(self, folder):
        rows = TABLE.replace("\n", "\r\n")
        (folder / "vggsound.csv").write_bytes(b"\xef\xbb\xbf" + (rows + "\r\n" + rows).encode())
        put(folder / f"{NAMES[0]}.mp4")
        source = load_clips("vggsound", folder)
        assert source.report.rows == {"train": 2, "test": 2}
        assert source.report.notes == {"duplicate_rows": 4}
        assert source.report.summary().startswith(
            "train: 2 rows, 1 found, 1 missing. test: 2 rows, 0 found, 2 missing."
        )
        assert list(source.splits) == ["train"]

    @pytest.mark.parametrize(
        "rows, message",
        [
            ("id,start,label,split\n", r"line 1: expected 'id,start second,label,split'"),
            ("glLQrEijrKg,300,playing hammond organ\n", r"got \['glLQrEijrKg', '300', 'playing hammond organ'\]"),
            ("glLQrEijrKg,300,playing hammond organ,dev\n", "unknown split 'dev', expected one of train, validation"),
            ("glLQrEijrKg_000300.mp4,playing hammond organ\n", "name a two-column table after its split"),
            (TABLE + "glLQrEijrKg,300,playing hammond organ,train\n", "line 5: .*contradicts"),
        ],
    )
    def test_bad_rows(self, folder, rows, message):
        (folder / "vggsound.csv").write_text(rows)
        with pytest.raises(ValueError, match=message):
            VGGSound(folder)

    def test_no_table(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no vggsound\.csv, vggsound_test\.csv, test\.csv in"):
            VGGSound(tmp_path)

    def test_no_clip_at_all(self, folder):
        with pytest.raises(FileNotFoundError, match=r"none of the 4 clips .* named like -a_b-c_d-e0_000003\.mp4"):
            VGGSound(folder)
        with pytest.raises(FileNotFoundError, match="does not exist; pass clips_dir"):
            VGGSound(folder, clips_dir=folder / "nowhere")


def test_two_hundred_thousand_rows_take_seconds(tmp_path):
    names = list(vggsound_super_categories())
    rows = (f'{i:011d},{i % 500},"{names[i % 309]}",{"test" if i % 13 == 0 else "train"}' for i in range(200_000))
    (tmp_path / "vggsound.csv").write_text("\n".join(rows))
    put(tmp_path / "clips" / "00000000026_000026.mp4")
    started = time.process_time()
    source = VGGSound(tmp_path)
    assert time.process_time() - started < 20
    assert sum(source.report.rows.values()) == 200_000
    assert source.report.counts["test"]["missing"] + source.report.counts["train"]["missing"] == 199_999
    assert source.splits["test"]["label"] == [26]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the official test table is not here")
def test_official_test_table():
    source = VGGSound(SHARED)
    assert source.report.rows == {"test": 15446}
    assert source.report.found == {"test": 5}
    assert source.report.counts == {"test": {"missing": 15441}}
    labels = {row["clip_id"]: source.label_names[row["label"]] for row in source.splits["test"]}
    assert labels["6VBURvUgzls_000030"] == "printer printing"
    assert Counter(Path(row["video"]).stem == row["clip_id"] for row in source.splits["test"]) == {True: 5}
