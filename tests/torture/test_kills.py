"""Everything that writes is killed at random moments, and gives in the end what it gives undisturbed."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import killed_jobs
import pytest
import torch
from datasets import Dataset
from killed_jobs import CLIPS_PER_FILE, REPO, make_student, make_teacher
from killing import Killer
from safetensors.torch import load_file
from tiny_runs import make_table
from transformers import AutoModel

from hf_emktd.distillation import EntropyMonitor
from hf_emktd.training import TeacherCache
from hf_emktd.training.resuming import is_whole, last_checkpoint
from hub_server import HubServer

WEIGHTS = "model.safetensors"


@pytest.fixture
def killer(tmp_path) -> Killer:
    return Killer(tmp_path / "log.txt")


@pytest.fixture
def table(tmp_path) -> Path:
    (tmp_path / "clips").mkdir()
    return make_table(tmp_path / "clips")


def torment(killer, kills, folders, job_in, check_in=lambda folder: lambda: None, most=8):
    """
    Runs `job_in(folder)` undisturbed, then in fresh folders until so many kills are made; returns the folders, the
    undisturbed one first.
    """
    undisturbed = next(folders)
    seconds = killer.run(job_in(undisturbed))
    if kills > most:
        seconds = killer.run(job_in(next(folders)))  # what is shared and cached is there now
    killed = []
    while killer.kills < kills:
        killed.append(next(folders))
        left = min(most, kills - killer.kills)
        killer.run_killed(job_in(killed[-1]), seconds, left, check_in(killed[-1]), killed[-1])
    print(f"{killer.kills} kills of a job of {seconds:.1f} s, in {len(killed)} runs")
    return [undisturbed, *killed]


def numbered(folder: Path):
    return (folder / str(number) for number in itertools.count())


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern) if path.is_file() and path.name[0] != "."}


def step_of(folder: Path) -> int:
    checkpoint = last_checkpoint(folder)
    return int(Path(checkpoint).name.partition("-")[2]) if checkpoint else 0


class CheckedRun:
    """After every kill: whole checkpoints can be read, none is lost, and a folder that looks finished is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.step = folder, 0

    def __call__(self) -> None:
        for checkpoint in self.folder.glob("checkpoint-*"):
            if is_whole(checkpoint) and int(checkpoint.name.partition("-")[2]) >= step_of(self.folder):
                load_file(checkpoint / WEIGHTS)
                torch.load(checkpoint / "optimizer.pt", weights_only=True)
                torch.load(checkpoint / "rng_state.pth", weights_only=False)
        assert step_of(self.folder) >= self.step
        self.step = step_of(self.folder)
        if (self.folder / "config.json").is_file():
            AutoModel.from_pretrained(self.folder)
        if (self.folder / "entropy_monitor" / "config.json").is_file():
            EntropyMonitor.from_pretrained(self.folder / "entropy_monitor")


def assert_distilled_alike(folders: list[Path]) -> None:
    first, *others = folders
    results = json.loads((first / "results.json").read_text())
    for folder in others:
        assert (folder / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
        assert json.loads((folder / "results.json").read_text())["results"] == results["results"]
        logged = [
            [
                (line["step"], line["loss"])
                for line in json.loads((each / "trainer_state.json").read_text())["log_history"]
                if "loss" in line
            ]
            for each in (first, folder)
        ]
        assert [step for step, _ in logged[0]] == [step for step, _ in logged[1]]
        assert not list(folder.rglob("*.saving-*")), "what killed processes left was removed"


def test_a_distillation_that_is_killed_three_times(killer, table, tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    given, epochs = (tmp_path / "cache", teacher, table), ("--num_train_epochs", "3")
    job_in = lambda folder: partial(killed_jobs.distil, *given, folder, *epochs)  # noqa: E731
    assert_distilled_alike(torment(killer, 3, numbered(tmp_path / "runs"), job_in, CheckedRun))


@pytest.mark.torture
@pytest.mark.parametrize(("seed", "with_monitor"), [(1, True), (2, False)])
def test_distillation(killer, table, tmp_path, seed, with_monitor):
    killer.random.seed(seed)
    teacher = make_teacher(tmp_path / "teacher", with_monitor=with_monitor)
    job_in = lambda folder: partial(killed_jobs.distil, tmp_path / "cache", teacher, table, folder)  # noqa: E731
    assert_distilled_alike(torment(killer, 20, numbered(tmp_path / "runs"), job_in, CheckedRun))


@pytest.mark.torture
def test_monitor_training(killer, table, tmp_path):
    teacher = make_teacher(tmp_path / "teacher", with_monitor=False)
    job_in = lambda folder: partial(killed_jobs.train_monitor, tmp_path / "cache", teacher, table, folder)  # noqa: E731

    def check_in(folder):
        def check():
            if (folder / "config.json").is_file():
                EntropyMonitor.from_pretrained(folder)

        return check

    first, *others = torment(killer, 16, numbered(tmp_path / "monitors"), job_in, check_in)
    for folder in others:
        assert (folder / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
        assert json.loads((folder / "config.json").read_text()) == json.loads((first / "config.json").read_text())


@pytest.mark.torture
@pytest.mark.parametrize("workers", [1, 2])
def test_feature_caching(killer, table, tmp_path, workers):
    counted = tmp_path / "counted.txt"
    job_in = lambda folder: partial(killed_jobs.extract, folder, table, workers, counted)  # noqa: E731

    def check_in(folder):
        whole = set()

        def check():
            files = set(folder.rglob("*.arrow"))
            assert whole <= files
            for file in files:
                assert len(Dataset.from_file(str(file))["fbank"]) > 0
            whole.update(files)

        return check

    first, *others = torment(killer, 12, numbered(tmp_path / "caches"), job_in, check_in)
    clips = 25
    repeated = len(counted.read_text().splitlines()) - clips * (2 + len(others))
    assert 0 <= repeated <= CLIPS_PER_FILE * killer.kills
    expected = {path.relative_to(first): Dataset.from_file(str(path))[:] for path in first.rglob("*.arrow")}
    for folder in others:
        assert {
            path.relative_to(folder): Dataset.from_file(str(path))[:] for path in folder.rglob("*.arrow")
        } == expected
        assert not list(folder.rglob("tmp*"))


@pytest.mark.torture
def test_teacher_caching(killer, table, tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    job_in = lambda folder: partial(killed_jobs.cache_teacher, tmp_path / "cache", teacher, table, folder)  # noqa: E731

    def check_in(folder):
        whole = {}

        def check():
            files = contents(folder / "signals")
            assert whole.items() <= files.items()
            whole.update(files)

        return check

    first, *others = torment(killer, 16, numbered(tmp_path / "caches"), job_in, check_in)
    for folder in others:
        assert contents(folder / "signals") == contents(first / "signals") and contents(folder) == contents(first)
        assert len(TeacherCache(folder).rows) == 36


@pytest.mark.torture
def test_the_benchmark_runner(killer, table, tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    job_in = lambda folder: partial(killed_jobs.benchmark, tmp_path / "cache", teacher, table, folder)  # noqa: E731

    def check_in(folder):
        finished = set()

        def check():
            records = set(folder.rglob("run.json"))
            assert finished <= records, "a finished run is kept"
            for record in records:
                for file in record.parent.glob("*.json"):
                    json.loads(file.read_text())
            finished.update(records)

        return check

    first, *others = torment(killer, 8, numbered(tmp_path / "benchmarks"), job_in, check_in)

    def results(folder):
        return {
            path.parent.relative_to(folder): (
                json.loads(path.read_text())["results"],
                (path.parent / WEIGHTS).read_bytes(),
            )
            for path in folder.rglob("results.json")
        }

    assert len(results(first)) == 2
    for folder in others:
        assert results(folder) == results(first)


@pytest.mark.torture
def test_export(killer, tmp_path):
    student = make_student(tmp_path / "student")
    job_in = lambda folder: partial(killed_jobs.export, tmp_path / "cache", student, folder)  # noqa: E731

    def check_in(folder):
        def check():
            if (folder / "config.json").is_file():
                torch.export.load(folder / "model.pt2")

        return check

    for folder in torment(killer, 8, numbered(tmp_path / "exports"), job_in, check_in, most=4):
        torch.export.load(folder / "model.pt2")
        assert not list(folder.rglob(".*"))


@pytest.mark.torture
def test_push(killer, tmp_path):
    student = make_student(tmp_path / "student")
    files = contents(student)
    with HubServer() as hub:
        hub.break_next("PUT", "/lfs/", times=-1, seconds=0.3)

        def check():
            arrived = hub.files(REPO) if REPO in hub.repos else {}
            assert arrived in ({}, files)

        while killer.kills < 16:
            hub.repos.clear(), hub.large_files.clear()
            seconds = killer.run(partial(killed_jobs.push, hub.url, student))
            hub.repos.clear(), hub.large_files.clear(), hub.requests.clear()
            killed = killer.run_killed(partial(killed_jobs.push, hub.url, student), seconds, 16 - killer.kills, check)
            assert hub.files(REPO) == files
            sent = [path for method, path in hub.requests if method == "PUT"]
            assert len(sent) <= 1 + killed
