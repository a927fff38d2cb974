"""A small benchmark from clips to its table: teacher, monitor, tuning, two rows of two seeds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from script_runs import ONE_EPOCH, TEACHER, TOUCHTONE

ROWS = ["KD", "EM-KTD + KD"]
TEACHER_OPTIONS = [*TEACHER, "--mixup_probability", "0", *ONE_EPOCH]
OPTIONS = ["--suite", "paper", "--rows", *ROWS, "--tune", "--grid", "1", "--seeds", "2", "--jobs", "1"]
OPTIONS += ["--dataset", "touchtone", "--dataset_options", TOUCHTONE, "--teacher_options", shlex.join(TEACHER_OPTIONS)]
OPTIONS += ["--monitor_options", "--use_cpu --disable_tqdm true --num_train_epochs 1 --min_steps 0"]
OPTIONS += [*ONE_EPOCH, "--eval_strategy", "epoch"]


@pytest.fixture(scope="module")
def compared(workplace, tmp_path_factory) -> tuple[Path, str]:
    """Folder of a benchmark, and what it printed."""
    folder = tmp_path_factory.mktemp("benchmark")
    ended = workplace.run("benchmark_objectives.py", *OPTIONS, "--output_dir", folder)
    assert ended.status == 0, ended.out + ended.err
    return folder, ended.out


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_every_row_has_its_seeds_and_where_they_come_from(compared):
    folder, printed = compared
    found = results(folder)
    assert found["suites"] == {"paper": ROWS} and list(found["rows"]) == ROWS
    assert found["rows"]["EM-KTD + KD"]["options"] == {"kd.weight": "1", "em_ktd.weight": "1"}
    assert set(found["tuning"]["KD"]["scores"]) == {"1"} and found["tuning"]["KD"]["chosen"] == "1"
    for name in ROWS:
        row = found["rows"][name]
        assert set(row["runs"]) == {"0", "1"} and row["failed"] == 0 and row["seconds_per_epoch"] > 0
        assert len(row["runs"]["0"]["manifest_hash"]) == 64 and row["runs"]["0"]["versions"]["torch"]
        assert row["runs"]["0"]["results"]["both"]["clips"] == 20
    assert found["rows"]["EM-KTD + KD"]["difference"]["seeds"] == 2
    assert (folder / "table.md").read_text() in printed + "\n" and (folder / "paper.png").stat().st_size > 10_000
    assert "[6/6] EM-KTD + KD, seed 1: " in printed and " left\n" in printed


def test_the_same_call_runs_nothing_again(workplace, compared):
    folder, _ = compared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    assert len(before) == 8  # teacher, monitor, two tuning runs, four seeds
    ended = workplace.run_here("benchmark_objectives.py", *OPTIONS, "--output_dir", folder)
    assert ended.status == 0, ended.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")} == before
    assert "seed 1:" not in ended.out


def test_a_row_is_the_command_that_it_names(workplace, compared, tmp_path):
    """A run among others, forked from a process that has loaded everything, is that of a process of its own."""
    folder, _ = compared
    run = results(folder)["rows"]["EM-KTD + KD"]["runs"]["1"]
    options = shlex.split(run["command"])[2:]
    options[options.index("--output_dir") + 1] = str(tmp_path / "student")
    repeated = workplace.run_here("distill.py", *options).results
    assert repeated["results"]["both"] == run["results"]["both"]


def test_a_row_that_fails_is_told(workplace, compared, tmp_path):
    teacher = next(compared[0].glob("teacher-*"))
    options = ["--suite", "paper", "--rows", "KD", "--seeds", "1", "--jobs", "1", "--output_dir", tmp_path]
    options += ["--teacher", teacher, "--max_steps", "1", "--learning_rate", "high", *ONE_EPOCH[2:]]
    ended = workplace.run_here("benchmark_objectives.py", *options)
    assert ended.status == 1 and "1 runs failed" in ended.err
    assert "KD, seed 0: FAILED (exit code 2)" in ended.out and "argument --learning_rate" in ended.out
    assert "| KD | defaults | failed |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "EM-KTD+KD"], "no row 'EM-KTD+KD' in paper; did you mean 'EM-KTD + KD'?"),
        (["--rows", "KD", "--seed", "1"], "--seed differs between the runs of a benchmark"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--", "--objective_options", "ktdd.weight=1"], "ktdd.weight=1: there is no such objective"),
    ],
)
def test_refusals_in_one_line(workplace, compared, tmp_path, options, message):
    teacher = next(compared[0].glob("teacher-*"))
    ended = workplace.run_here("benchmark_objectives.py", "--teacher", teacher, "--output_dir", tmp_path, *options)
    assert ended.status in (1, 2) and message in ended.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
