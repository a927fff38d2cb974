from __future__ import annotations

import json

import pytest

from hf_emktd.analysis import read_gains

RESULTS = {
    "rows": {
        "FD-CMKD, picture only": {"difference": {"to": "KD, picture only", "mean": 0.013, "low": 0.0, "high": 0.02}},
        "KD, picture only": {"difference": None},
    }
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_mapping(tmp_path):
    path = write(tmp_path / "gains.json", {"audio->visual": 1, "visual->audio": -0.5})
    assert read_gains(path) == {"audio->visual": 1.0, "visual->audio": -0.5}


def test_rows_of_a_benchmark_are_in_points(tmp_path):
    path = write(tmp_path / "results.json", RESULTS)
    assert read_gains(path, ["audio->visual=FD-CMKD, picture only"]) == {"audio->visual": pytest.approx(1.3)}


@pytest.mark.parametrize(
    "content, rows, message",
    [
        ({}, [], "must hold gains in points by pair"),
        ([1.3], [], "must hold gains in points by pair"),
        ({"audio->visual": "much"}, [], "must hold gains in points by pair"),
        ({"audio->visual": True}, [], "must hold gains in points by pair"),
        (RESULTS, [], "say which row distils which pair"),
        (RESULTS, ["audio->visual"], "say which row distils which pair"),
        (RESULTS, ["audio->visual=EM-KTD"], "has no row 'EM-KTD'; it has FD-CMKD, picture only, KD, picture only"),
        (RESULTS, ["audio->visual=KD, picture only"], "has no difference to another row"),
    ],
)
def test_refusals(content, rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_gains(write(tmp_path / "gains.json", content), rows)


def test_no_json(tmp_path):
    (tmp_path / "gains.json").write_text("audio 1.3")
    with pytest.raises(ValueError, match=r"gains.json is no JSON file of gains"):
        read_gains(tmp_path / "gains.json")
    with pytest.raises(ValueError, match=r"is no JSON file of gains"):
        read_gains(tmp_path / "absent.json")
