"""Real processes, of scripts that do next to nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_emktd.benchmark import Executor
from hf_emktd.benchmark.execution import duration, threads_of_each
from hf_emktd.benchmark.runs import Run

COUNT = """
import os, sys
folder = sys.argv[sys.argv.index("--output_dir") + 1]
with open(os.path.join(folder, "calls.txt"), "a") as file:
    file.write(" ".join(sys.argv[1:]) + f" threads={os.environ['OMP_NUM_THREADS']}\\n")
print("to standard output")
os.system("echo of a child")
"""
FAIL = """
import sys
print("before")
sys.exit("no such thing")
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def executor(said) -> Executor:
    return Executor(2, said.append)


def make_run(folder: Path, name: str, text: str = COUNT, options: tuple[str, ...] = ()) -> Run:
    script = folder / f"{name}.py"
    script.write_text(text)
    return Run(name, script, options, folder / name)


def test_a_finished_run_is_not_run_again(executor, said, tmp_path):
    runs = [make_run(tmp_path, "a", options=("--seed", "1")), make_run(tmp_path, "b")]
    executor.expect(3)
    executor.execute([runs[0]])
    assert said[0].startswith("[1/3] a: ") and "; about" in said[0] and said[0].endswith(" left")
    executor.execute([*runs, runs[1]])
    calls = (tmp_path / "a" / "calls.txt").read_text().splitlines()
    assert len(calls) == 1 and calls[0].startswith(f"--seed 1 --output_dir {tmp_path}/a threads=")
    assert len((tmp_path / "b" / "calls.txt").read_text().splitlines()) == 1
    assert len(said) == 2 and said[1].startswith("[2/3] b: ")
    # a new executor, as after an interruption
    Executor(1, said.append).execute(runs)
    assert len(said) == 2


def test_what_is_measured_and_kept(executor, tmp_path):
    run = make_run(tmp_path, "a")
    executor.execute([run])
    assert run.finished
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record == run.record
    assert record["seconds"] > 0 and 5e7 < record["peak_memory"] < 2e10
    assert record["device"] == "cpu" and record["code"] == executor.version and record["threads"] >= 1
    assert (tmp_path / "a" / "log.txt").read_text() == "to standard output\nof a child\n"


def test_a_failed_run_is_told_and_the_others_go_on(executor, said, tmp_path):
    failing, other = make_run(tmp_path, "bad", FAIL), make_run(tmp_path, "good")
    executor.expect(2)
    executor.execute([failing, other], jobs=1)
    assert executor.failed == {failing.folder} and not failing.finished and other.finished
    assert said[0].startswith("[1/2] bad: FAILED (exit code 1)") and said[0].endswith(
        "log.txt:\nbefore\nno such thing"
    )
    assert said[1].startswith("[2/2] good: ") and "left" not in said[1]
    # mended, it runs, and counts as failed no more
    (tmp_path / "bad.py").write_text(COUNT)
    executor.execute([failing, other])
    assert failing.finished and executor.failed == set()


def test_an_interruption_ends_the_runs(executor, tmp_path, monkeypatch):
    run = make_run(tmp_path, "slow", "import time\ntime.sleep(600)\n")
    monkeypatch.setattr("hf_emktd.benchmark.execution.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.execute([run])
    assert not run.finished


def interrupt(_):
    raise KeyboardInterrupt


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of_each(jobs) for jobs in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [threads_of_each(jobs) for jobs in (1, 3)] == [4, 2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.6, "42 s"), (99, "99 s"), (100, "2 min"), (3570, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
