"""From a teacher and a budget to a suggested student that distill.py trains."""

from __future__ import annotations

import json
import shlex

import pytest
from script_runs import ONE_EPOCH
from transformers import AutoConfig, AutoModel

import hf_emktd  # noqa: F401  registers the Auto classes
from hf_emktd.metrics import count_parameters

BUDGET = ["--max_params", "8k", "--max_latency_ms", "10000"]
QUICK = [
    "--candidates",
    "3",
    "--repetitions",
    "1",
    "--threads",
    "1",
    "--score_batch_size",
    "8",
    "--initialisations",
    "2",
]


@pytest.fixture(scope="module")
def answer(workplace, teacher, tmp_path_factory):
    """What the script printed, and its folder."""
    folder = tmp_path_factory.mktemp("suggestion")
    ended = workplace.run_here("suggest_student.py", "--teacher", teacher, *BUDGET, *QUICK, "--output_dir", folder)
    assert ended.status == 0, ended.err
    return ended.out, folder


def test_all_that_is_written(teacher, answer):
    printed, folder = answer
    assert {path.name for path in folder.iterdir()} == {
        "suggestions.json",
        "table.md",
        "score_and_latency.png",
        "student",
    }
    assert (folder / "table.md").read_text() == printed
    stored = json.loads((folder / "suggestions.json").read_text())
    assert len(stored["suggestions"]) == 3 and stored["measured_on"]["threads"] == 1
    totals = [each["score"]["total"] for each in stored["suggestions"]]
    assert totals == sorted(totals, reverse=True)
    for each in stored["suggestions"]:
        assert each["parameters"] <= 8000 and each["latency_ms"] > 0 and each["macs"] > 0
    assert stored["commands"]["highest score"] in printed
    best = AutoModel.from_config(AutoConfig.from_pretrained(folder / "student"))
    assert count_parameters(best) == stored["suggestions"][0]["parameters"]


@pytest.mark.parametrize("by", ["fields", "directory"])
def test_distill_takes_the_first(workplace, teacher, answer, tmp_path, by):
    stored = json.loads((answer[1] / "suggestions.json").read_text())
    python, script, *options = shlex.split(stored["commands"]["highest score"])
    assert (python, script) == ("python", "scripts/distill.py")
    if by == "directory":
        options = ["--teacher", str(teacher), "--student", str(answer[1] / "student")]
    ended = workplace.run_here(
        "distill.py", *options, *ONE_EPOCH, "--objective", "kd", "--output_dir", tmp_path / "student"
    )
    assert ended.status == 0, ended.err
    student = AutoModel.from_pretrained(tmp_path / "student")
    assert count_parameters(student) == stored["suggestions"][0]["parameters"]


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--teacher", "{teacher}"], 2, "a budget is needed: at least one of --max_params"),
        (["--max_params", "1M"], 2, "--teacher is needed"),
        (["--teacher", "{teacher}", "--max_params", "10"], 1, "no student of this teacher has at most 10 parameters"),
        (["--teacher", "{teacher}", "--max_params", "ten"], 2, "expected a positive number such as 10M"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(workplace, teacher, options, status, reason):
    ended = workplace.run_here("suggest_student.py", *(option.format(teacher=teacher) for option in options))
    assert ended.status == status and ended.out == "" and "Traceback" not in ended.err
    assert reason in ended.err.splitlines()[-1]
