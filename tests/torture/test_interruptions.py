"""Signals, disks that are full or cannot be written to, two runs on one cache, clocks: one line, and it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import killed_jobs
import pytest
from killed_jobs import make_teacher
from killing import Killer, kill_all, wait_for_change
from test_kills import CheckedRun, assert_distilled_alike, contents
from tiny_runs import make_table

from hf_emktd.training import TeacherCache

pytestmark = pytest.mark.torture
RESUME = "The same command with --resume_from_checkpoint last goes on from there."
AGAIN = "The same command goes on from there."
ROUNDS = 8


@pytest.fixture
def killer(tmp_path) -> Killer:
    return Killer(tmp_path / "log.txt", seed=7)


@pytest.fixture
def table(tmp_path) -> Path:
    (tmp_path / "clips").mkdir()
    return make_table(tmp_path / "clips")


@pytest.fixture
def distil(tmp_path, table):
    teacher = make_teacher(tmp_path / "teacher")
    return lambda folder: partial(killed_jobs.distil, tmp_path / "cache", teacher, table, folder)


class Disk:
    """A file system in memory, of a size."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def mount(self, kilobytes: int) -> None:
        self._mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "none")

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}")

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=False, capture_output=True)

    def _mount(self, *options: str) -> None:
        done = subprocess.run(["mount", *options, str(self.folder)], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr}")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()


def said_last(killer) -> str:
    text = killer.log.read_text(errors="replace")
    killer.log.write_text("")
    assert "Traceback" not in text, text
    return text.rstrip().splitlines()[-1].rpartition("\r")[2]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_one_line_and_the_run_goes_on(killer, distil, tmp_path, signum, status):
    seconds = max(killer.run(distil(tmp_path / "first")), killer.run(distil(tmp_path / "second")))
    folder, signals, saved = tmp_path / "run", 0, 0
    check = CheckedRun(folder)
    for _ in range(ROUNDS):
        killer.log.write_text("")
        process = killer.start(distil(folder))
        # from when its own code runs: before that, nobody could say anything
        while process.is_alive() and not killer.log.read_text(errors="replace"):
            time.sleep(0.01)
        if killer.random.random() < 0.6:
            wait_for_change(folder, process)
        else:
            process.join(killer.random.uniform(0, seconds))
        if process.is_alive():
            os.kill(process.pid, signum)
        ended = killer.wait(process)
        check()
        if ended == 0:
            break
        signals += 1
        line = said_last(killer)
        assert ended == status and line.endswith(RESUME), (ended, line)
        assert f"distill.py: ended by {signum.name}." in line
        saved += "is saved" in line
    killer.run(distil(folder))
    print(f"{signals} times {signum.name}, {saved} of them with a checkpoint")
    assert_distilled_alike([tmp_path / "first", folder])


def test_a_disk_that_is_full(killer, distil, disk, tmp_path):
    killer.run(distil(tmp_path / "first"))
    full = 0
    for size in range(128, 128 + ROUNDS * 96, 96):
        disk.mount(size)
        folder = disk.folder / "run"
        ended = killer.wait(killer.start(distil(folder)))
        CheckedRun(folder)()
        if ended:
            full += 1
            line = said_last(killer)
            assert ended == 1 and line.startswith("distill.py: error: ") and line.endswith(RESUME), line
            assert "bytes are free there" in line or "No space left on device" in line, line
        disk.remount("size=64m")
        killer.run(distil(folder))
        assert_distilled_alike([tmp_path / "first", folder])
        disk.unmount()
    print(f"{full} of {ROUNDS} disks were full")
    assert full >= 2


def test_caches_on_a_disk_that_is_full(killer, table, disk, tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    killer.run(partial(killed_jobs.cache_teacher, tmp_path / "cache", teacher, table, tmp_path / "first"))
    full = 0
    for size in range(64, 64 + ROUNDS * 32, 32):
        disk.mount(size)
        job = partial(killed_jobs.cache_teacher, disk.folder / "cache", teacher, table, disk.folder / "signals")
        ended = killer.wait(killer.start(job))
        if ended:
            full += 1
            line = said_last(killer)
            assert "No space left on device" in line and line.endswith(AGAIN), line
        disk.remount("size=64m")
        killer.run(job)
        assert contents(disk.folder / "signals") == contents(tmp_path / "first")
        disk.unmount()
    print(f"{full} of {ROUNDS} disks were full")
    assert full >= 2


def test_an_output_that_cannot_be_written_to(killer, distil, disk, tmp_path):
    killer.run(distil(tmp_path / "first"))
    disk.mount(1024)
    (disk.folder / "run").mkdir()
    disk.remount("ro")
    for folder in (disk.folder / "run", disk.folder / "new"):
        killer.log.write_text("")
        assert killer.wait(killer.start(distil(folder))) == 1
        assert "'loss'" not in killer.log.read_text(), "it trained for nothing"
        assert "Read-only file system" in said_last(killer)


def test_two_runs_share_their_caches(killer, table, tmp_path):
    counted = tmp_path / "counted.txt"
    jobs = [partial(killed_jobs.extract, tmp_path / "cache", table, 1, counted)] * 2
    assert [killer.wait(process) for process in [killer.start(job) for job in jobs]] == [0, 0], killer.last_words()
    assert len(counted.read_text().splitlines()) == 25
    teacher = make_teacher(tmp_path / "teacher")
    jobs = [partial(killed_jobs.cache_teacher, tmp_path / "cache", teacher, table, tmp_path / "signals")] * 2
    assert [killer.wait(process) for process in [killer.start(job) for job in jobs]] == [0, 0], killer.last_words()
    assert len(TeacherCache(tmp_path / "signals").rows) == 36


@pytest.mark.parametrize("year", [1971, 2100])
def test_clocks_that_were_wrong(killer, distil, table, tmp_path, year):
    killer.run(distil(tmp_path / "first"))
    seconds = killer.run(distil(tmp_path / "again"))
    folder, then = tmp_path / "run", (year - 1970) * 31_557_600
    for kill in range(3):
        process = killer.start(distil(folder))
        process.join(seconds * (kill + 1) / 4)
        if process.is_alive():
            kill_all(process)
        for path in [*folder.rglob("*"), *(tmp_path / "cache").rglob("*"), *table.parent.iterdir()]:
            os.utime(path, (then, then))
    killer.run(distil(folder))
    assert_distilled_alike([tmp_path / "first", folder])
