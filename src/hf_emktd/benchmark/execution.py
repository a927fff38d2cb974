"""Several runs at a time, each in a process of its own, with progress and an estimate of the time left."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .runs import Run
from .worker import code_version, run_script

# What every script imports; the process that the runs are forked from has it already and has done nothing else, so
# a run starts at once and is as alone as one that is started by hand.
PRELOADED = ["hf_emktd.training", "hf_emktd.hub", "hf_emktd.benchmark.worker"]


class Executor:
    """
    Runs scripts, and knows which failed.

    Args:
        jobs: students at a time; the cores are shared out among them ([`threads_of_each`]).
        say: where progress goes, a line at a time.

    Attributes:
        failed: folders of the runs that did not end well.
    """

    def __init__(self, jobs: int, say: Callable[[str], None]) -> None:
        self.jobs = jobs
        self.say = say
        self.failed: set[Path] = set()
        self.expected = 0
        self.seconds: dict[Path, float] = {}  # of the students that are done
        self.version = code_version()  # of the code that is loaded now, whatever becomes of the files
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def expect(self, count: int) -> None:
        """From now on `count` runs are to come, finished ones among them."""
        self.expected, self.seconds = count, {}

    def execute(self, runs: Sequence[Run], jobs: int | None = None) -> None:
        """
        Runs those of `runs` that are not finished, at most `jobs` at a time. A failed run is said with the end of its
        log, and the others go on; when this process is interrupted, all are ended.
        """
        jobs = self.jobs if jobs is None else jobs
        self.seconds |= {run.folder: run.record["seconds"] for run in runs if run.finished}
        waiting = [run for run in dict.fromkeys(runs) if not run.finished]
        running: dict[int, tuple[Run, BaseProcess]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    process = self._start(waiting[0], jobs)
                    running[process.sentinel] = waiting.pop(0), process
                for sentinel in wait(list(running)):
                    run, process = running.pop(sentinel)
                    process.join()
                    self._ended(run, process.exitcode)
        finally:
            for _, process in running.values():
                process.terminate()
                process.join()

    def _start(self, run: Run, jobs: int) -> BaseProcess:
        process = self.context.Process(
            target=run_script,
            args=(str(run.script), run.command, str(run.folder), threads_of_each(jobs), self.version),
            name=run.title,
        )
        process.start()
        return process

    def _ended(self, run: Run, status: int | None) -> None:
        if not run.finished:
            self.failed.add(run.folder)
            told = f"{run.title}: FAILED (exit code {status}); the end of {run.folder}/log.txt:\n{run.last_lines()}"
            self.say(f"{self._position()}{told}")
            return
        self.failed.discard(run.folder)
        self.seconds[run.folder] = run.record["seconds"]
        self.say(f"{self._position()}{run.title}: {duration(run.record['seconds'])}{self._time_left()}")

    def _position(self) -> str:
        return f"[{len(self.seconds) + len(self.failed)}/{self.expected}] " if self.expected else ""

    def _time_left(self) -> str:
        left = self.expected - len(self.seconds) - len(self.failed)
        if left <= 0:
            return ""
        return f"; about {duration(sum(self.seconds.values()) / len(self.seconds) * left / self.jobs)} left"


def threads_of_each(jobs: int) -> int:
    """The cores shared out among `jobs` runs; not more than `OMP_NUM_THREADS` where the environment sets it."""
    share = max(1, (os.cpu_count() or 1) // jobs)
    return min(share, int(os.environ.get("OMP_NUM_THREADS", share)))


def duration(seconds: float) -> str:
    """`"42 s"`, `"13 min"` or `"2 h 05 min"`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
