"""A user's own table of clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_emktd.data import ClipTable


def put(path: Path, size: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


@pytest.fixture
def table(tmp_path):
    for name in ("a.mp4", "b.mp4", "sub/a.mp4", "p.png", "s.wav"):
        put(tmp_path / name)

    def write(content: str, name: str = "clips.csv") -> Path:
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


class TestRows:
    def test_videos(self, table, tmp_path):
        source = ClipTable(table("clip_id,split,label,video,note\nx,train,dog,a.mp4,!\ny,val,cat,b.mp4,\n"))
        assert source.label_names == ["cat", "dog"]
        assert source.splits["train"][0] == {"clip_id": "x", "label": 1, "video": str(tmp_path / "a.mp4")}
        assert source.splits["validation"][0] == {"clip_id": "y", "label": 0, "video": str(tmp_path / "b.mp4")}
        assert source.report.rows == source.report.found == {"train": 1, "validation": 1}

    def test_pictures_and_sounds_with_an_empty_cell(self, table, tmp_path):
        source = ClipTable(table("split,label,image,audio\ntest,dog,p.png,s.wav\ntest,dog,p.png,\n"))
        assert source.splits["test"]["image"] == [str(tmp_path / "p.png")] * 2
        assert source.splits["test"]["audio"] == [str(tmp_path / "s.wav"), None]
        assert source.splits["test"]["clip_id"] == ["s", "p"]
        assert source.report.counts == {"test": {"soundless": 1}}

    def test_a_table_of_sounds_only(self, table):
        source = ClipTable(table("split,label,audio\ntest,dog,s.wav\n"))
        assert source.splits["test"].column_names == ["clip_id", "label", "audio"]
        assert source.report.counts == {}

    def test_tabs_byte_order_mark_and_windows_lines(self, table, tmp_path):
        path = tmp_path / "clips.tsv"
        path.write_bytes("\ufeffsplit\tlabel\tvideo\r\ntrain\tdog, big\ta.mp4\r\n".encode())
        assert ClipTable(path).label_names == ["dog, big"]

    @pytest.mark.parametrize(
        "given, split",
        [("train", "train"), ("val", "validation"), ("VALID", "validation"), ("validation",) * 2, (" test ", "test")],
    )
    def test_split_names(self, table, given, split):
        assert list(ClipTable(table(f"split,label,video\n{given},dog,a.mp4\n")).splits) == [split]

    def test_default_ids_are_file_names_made_unique_by_line(self, table):
        rows = "split,label,video\ntrain,dog,a.mp4\ntrain,dog,sub/a.mp4\ntrain,dog,b.mp4\n"
        assert ClipTable(table(rows)).splits["train"]["clip_id"] == ["a_2", "a_3", "b"]

    def test_missing_and_empty_files_are_counted(self, table, tmp_path):
        put(tmp_path / "empty.mp4", size=0)
        rows = "split,label,video\ntrain,dog,a.mp4\ntrain,ant,lost.mp4\ntest,cat,lost2.mp4\ntrain,cat,empty.mp4\n"
        source = ClipTable(table(rows))
        assert source.report.counts == {"train": {"missing": 1, "corrupt": 1}, "test": {"missing": 1}}
        assert source.report.rows == {"train": 3, "test": 1} and source.report.found == {"train": 1, "test": 0}
        # labels of lost clips keep their ids
        assert source.label_names == ["ant", "cat", "dog"] and source.splits["train"]["label"] == [2]


class TestLabels:
    @pytest.mark.parametrize(
        "labels, expected",
        [(["10", "9", "-1"], ["-1", "9", "10"]), (["10", "9", "x"], ["10", "9", "x"]), (["1.5", "10"], ["1.5", "10"])],
    )
    def test_whole_numbers_by_value_all_else_as_text(self, table, labels, expected):
        rows = "".join(f"train,{label},a.mp4\n" for label in labels)
        assert ClipTable(table("split,label,video\n" + rows)).label_names == expected

    def test_given_names_decide_the_ids(self, table):
        path = table("split,label,video\ntrain,cat,a.mp4\n")
        assert ClipTable(path, label_names=["dog", "cat", "ant"]).splits["train"]["label"] == [1]
        with pytest.raises(ValueError, match=r"line 2, column label: unknown label 'cat'.*did you mean 'cats'"):
            ClipTable(path, label_names=["cats", "dogs"])
        with pytest.raises(ValueError, match=r"holds a name twice: \['cat'\]"):
            ClipTable(path, label_names=["cat", "dog", "cat"])


class TestPaths:
    def test_relative_to_another_root(self, table, tmp_path):
        path = table("split,label,video\ntrain,cat,a.mp4\n")
        assert ClipTable(path, root=tmp_path / "sub").splits["train"]["video"] == [str(tmp_path / "sub" / "a.mp4")]

    @pytest.mark.parametrize("name", ["../a.mp4", "sub/../../a.mp4", "{root}/a.mp4"])
    def test_paths_out_of_the_root_need_consent(self, table, tmp_path, name):
        put(tmp_path.parent / "a.mp4")
        path = table(f"split,label,video\ntrain,cat,{name.format(root=tmp_path.parent)}\n")
        with pytest.raises(ValueError, match=r"line 2, column video: .*leads out of .*allow_outside_root=True"):
            ClipTable(path)
        assert len(ClipTable(path, allow_outside_root=True).splits["train"]) == 1

    def test_no_file_at_all(self, table):
        with pytest.raises(FileNotFoundError, match=r"none of the 1 rows .* such as x\.mp4; pass the folder"):
            ClipTable(table("split,label,video\ntrain,cat,x.mp4\n"))


@pytest.mark.parametrize(
    "content, message",
    [
        ("label,video\ncat,a.mp4\n", "no column split; a table needs split, label and video, or image and audio"),
        ("split,label\ntrain,cat\n", r"no column video \(or image and audio\)"),
        ("split,label,video,audio\ntrain,cat,a.mp4,s.wav\n", "columns video, audio at once"),
        ("split,label,video\n", "no rows below the header"),
        ("", "no column split, label"),
        ("split,label,video\ntrain,cat,a.mp4\nshow,cat,a.mp4\n", "line 3, column split: unknown split 'show'"),
        ("split,label,video\ntrain,,a.mp4\n", "line 2, column label: empty"),
        ("split,label,video\ntrain,cat,\n", "line 2, column video: empty"),
        ("split,label,video\ntrain,dog, big,a.mp4\n", "line 2: more or fewer fields than the header"),
        ("split,label,video\ntrain,cat\n", "line 2: more or fewer fields than the header"),
        (
            "split,label,video,clip_id\ntest,cat,a.mp4,x\ntest,cat,b.mp4,x\n",
            "line 3, column clip_id: 'x' is .* in line 2",
        ),
    ],
)
def test_tables_that_cannot_be_read(table, content, message):
    with pytest.raises(ValueError, match=message):
        ClipTable(table(content))


def test_ending_and_encoding(table, tmp_path):
    with pytest.raises(ValueError, match=r"a table ends in \.csv or \.tsv, got '\.xlsx'"):
        ClipTable(table("", "clips.xlsx"))
    (tmp_path / "latin.csv").write_bytes("split,label,video\ntrain,Bär,a.mp4\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8 text"):
        ClipTable(tmp_path / "latin.csv")
