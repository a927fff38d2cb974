"""Table, commands, JSON and picture of a search."""

from __future__ import annotations

import json
import math
import shlex

import pytest
from PIL import Image
from tiny_runs import make_model

from hf_emktd.search import (
    Candidate,
    MeasuredStudent,
    Suggestion,
    TrainingFreeScore,
    distill_command,
    draw,
    format_table,
    measuring_conditions,
    rivals,
    to_dict,
)
from hf_emktd.training import build_student_config, to_json


def suggestion(width: int, parameters: int, totals: tuple[float, ...], **changes) -> Suggestion:
    fields = {"hidden_size": width, "num_attention_heads": 1, "sizes": [1, 2]}
    candidate = Candidate(fields, make_model().config, parameters)
    costs = {"macs": 1_500_000, "latency_ms": 1.25, "memory_mb": 3.0} | changes
    return Suggestion(MeasuredStudent(candidate, **costs), TrainingFreeScore(totals, None))


@pytest.fixture
def suggestions() -> list[Suggestion]:
    return [
        suggestion(8, 1000, (-0.1, -0.3)),
        suggestion(16, 2500, (-0.3, -0.1), macs=2 * 10**9, memory_mb=None),
        suggestion(4, 500, (-1.1, -1.3)),
    ]


def test_table(suggestions):
    lines = format_table(suggestions, teacher_parameters=10_000).splitlines()
    assert lines[0] == "| hidden_size | parameters | of the teacher | MACs | ms | MB | score | clips | classes |"
    assert lines[2] == "| 8 | 1,000 | 10.0% | 1.50 M | 1.2 | 3.0 | -0.2000 ± 0.1414 | -0.20000 |  |"
    assert lines[3] == "| 16 | 2,500 | 25.0% | 2.00 G | 1.2 |  | -0.2000 ± 0.1414 | -0.20000 |  |"
    assert lines[-1] == "The same in all: num_attention_heads=1, sizes=[1, 2]."


def test_rivals_are_not_clearly_lower_and_the_largest_comes_first(suggestions):
    assert rivals(suggestions) == [suggestions[1], suggestions[0]]
    assert rivals(suggestions[2:]) == suggestions[2:]


def test_command_is_what_the_shell_takes(suggestions):
    words = shlex.split(distill_command(suggestions[0], "my teacher", ["--dataset", "clips.csv"]))
    assert words[:6] == ["python", "scripts/distill.py", "--teacher", "my teacher", "--dataset", "clips.csv"]
    assert words[6:] == ["--student_fields", "hidden_size=8", "num_attention_heads=1", "sizes=[1,2]"]


def test_fields_of_a_command_are_read_by_the_student_builder(suggestions):
    words = shlex.split(distill_command(suggestions[0], "teacher"))
    fields = [word for word in words[words.index("--student_fields") + 1 :] if "sizes" not in word]
    assert build_student_config(make_model().config, None, fields).hidden_size == 8


def test_json_is_strict_and_complete(suggestions):
    one = suggestion(8, 1000, (-0.5,))
    stored = json.loads(to_json(to_dict(one)))
    assert stored["score"] == {"total": -0.5, "deviation": None, "clips": [-0.5], "classes": None}
    assert (stored["parameters"], stored["macs"], stored["memory_mb"]) == (1000, 1_500_000, 3.0)
    assert stored["student_fields"][2] == "sizes=[1,2]" and math.isnan(one.score.deviation)


def test_conditions_name_the_threads():
    assert measuring_conditions("cpu", 3)["threads"] == 3
    assert measuring_conditions("cpu", None)["threads"] >= 1


@pytest.mark.parametrize("count", [1, 3])
def test_picture(suggestions, tmp_path, count):
    draw(suggestions[:count], tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (900, 600)
    draw([suggestion(8, 1000, (-0.5,))], tmp_path / "single.png")
    assert (tmp_path / "single.png").is_file()
