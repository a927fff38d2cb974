from __future__ import annotations

import re
from pathlib import Path

import pytest

import hf_emktd
from hf_emktd.distillation.objectives import OBJECTIVES_OF_TASK, LogitDistillation

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "objectives.md"
TASKS = {"both": set(OBJECTIVES_OF_TASK), "events": {"audio-visual-classification"}}
TASKS["masks"] = {"audio-visual-segmentation"}


def test_lists_every_objective_of_every_task_once():
    entries = hf_emktd.list_objectives()
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names)) and set(names) == {
        name for known in OBJECTIVES_OF_TASK.values() for name in known
    }
    for task, known in OBJECTIVES_OF_TASK.items():
        assert {entry.name for entry in hf_emktd.list_objectives(task)} == set(known)


def test_default_weights_are_those_of_the_objects():
    weights = {entry.name: entry.default_weight for entry in hf_emktd.list_objectives()}
    assert weights["kd"] == LogitDistillation().weight
    assert weights["em_ktd"] == 1 and weights["at"] == 1000 and weights["spkd"] == 3000


def test_a_line_says_all_of_it():
    (line,) = [str(entry) for entry in hf_emktd.list_objectives() if entry.name == "transkd"]
    assert line.startswith("transkd     the four stages of the picture encoder: ")
    assert line.endswith(" (segmentation; weight 1; https://arxiv.org/abs/2202.13393)")


def test_the_document_has_the_same_rows():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (both|events|masks) \| ", DOCUMENT.read_text(), re.M)
    documented = {name: (compares, TASKS[tasks]) for name, compares, _, tasks in rows}
    entries = hf_emktd.list_objectives()
    assert documented == {entry.name: (entry.compares, set(entry.tasks)) for entry in entries}
    papers = {name: paper for name, _, paper, _ in rows}
    assert all(entry.source in papers[entry.name] for entry in entries if entry.source != "this library")


def test_refuses_a_task_that_is_not():
    with pytest.raises(ValueError, match="task must be one of audio-visual-classification, audio-visual-segmentation"):
        hf_emktd.list_objectives("detection")
