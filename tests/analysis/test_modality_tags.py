from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_emktd.analysis import Readings, read_tags, weights_by_tag

VGGSOUNDER = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "vggsound" / "vggsounder.csv"
TABLE = """video_id,label,modality,voice_over
a_000001,"child speech, kid speaking",A,True
a_000001,dog barking,AV,False
b_000000,dog barking,V,False
c_000000,dog barking,AV,False
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def readings():
    entropies = {"audio": np.log([1, 4, 16, 1, 9]), "visual": np.zeros(5)}
    return Readings(entropies, {branch: np.ones(5) for branch in entropies}, np.ones(5))


CLIPS = ["a_000001", "b_000000", "c_000000", "a_000001", "c_000000"]
LABELS = ["child speech, kid speaking", "dog barking", "dog barking", "dog barking", "cat meowing"]


def test_tags_are_those_of_clip_and_label(table):
    tags = read_tags(table)
    assert tags[("a_000001", "child speech, kid speaking")] == "A" and tags[("a_000001", "dog barking")] == "AV"


def test_weights_by_hand(table, readings):
    """With lambda 1/2 the weights of sound are 1, 1/2, 1/4, 1; the last clip's own label has no tag."""
    audible, visible, both = weights_by_tag(readings, CLIPS, LABELS, read_tags(table), 0.5)
    assert [one.tag for one in (audible, visible, both)] == ["A", "V", "AV"]
    assert [one.clips for one in (audible, visible, both)] == [1, 1, 2]
    assert [one.weights["audio"] for one in (audible, visible, both)] == pytest.approx([1, 0.5, 0.625])
    assert both.errors["audio"] == pytest.approx(0.375) and both.errors["visual"] == 0
    assert np.isnan(audible.errors["audio"])
    assert both.weights["visual"] == 1


def test_refusals(table, readings, tmp_path):
    with pytest.raises(ValueError, match=r"none of the 5 clips has a tag .*'x' with 'dog barking', the table's like"):
        weights_by_tag(readings, ["x"] * 5, ["dog barking"] * 5, read_tags(table), 0.5)
    table.write_text(TABLE.replace(",V,", ",visible,"))
    with pytest.raises(ValueError, match=r"has the tags 'visible'; known are A, V, AV"):
        read_tags(table)
    table.write_text("video_id,label\n")
    with pytest.raises(ValueError, match="has no column modality"):
        read_tags(table)


@pytest.mark.skipif(not VGGSOUNDER.is_file(), reason="the folder of shared data is absent")
def test_vggsounder_itself():
    tags = read_tags(VGGSOUNDER)
    assert len({clip for clip, _ in tags}) == 12_014
    assert tags[("--i-y1v8Hy8_000000", "female singing")] == "AV"
