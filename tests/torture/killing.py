"""Runs jobs as processes of their own and kills them, with all that they have started, at random moments."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

# forked: this process has imported everything, which takes longer than the jobs
CONTEXT = multiprocessing.get_context("fork")
tqdm.monitor_interval = 0  # no thread while others are forked
LONGEST_SECONDS = 300
SHORTLY = 0.1

Job = Callable[[], None]


class Killer:
    """
    Kills jobs at moments that a seed decides, and goes on with them.

    Args:
        log: file of all that the jobs print.

    Attributes:
        kills: so far.
    """

    def __init__(self, log: Path, seed: int = 0) -> None:
        self.log = log
        self.random = random.Random(seed)
        self.kills = 0

    def run(self, job: Job) -> float:
        """Seconds that the undisturbed job takes."""
        started = time.monotonic()
        assert self.wait(self.start(job)) == 0, self.last_words()
        return time.monotonic() - started

    def run_killed(
        self, job: Job, seconds: float, most: int, check: Callable[[], None], folder: Path | None = None
    ) -> int:
        """
        Runs a job that takes `seconds` until it ends, `check`s what each kill left, and counts the kills. Every other
        one comes at any moment, the rest shortly after something has changed in `folder`.
        """
        for kill in range(most):
            process = self.start(job)
            if folder is not None and self.random.random() < 0.5:
                wait_for_change(folder, process)
                process.join(self.random.expovariate(1 / SHORTLY))
            else:
                process.join(self.random.uniform(0, 1.2 * seconds))
            if not process.is_alive():
                assert process.exitcode == 0, self.last_words()
                return kill
            kill_all(process)
            self.kills += 1
            check()
        assert self.wait(self.start(job)) == 0, self.last_words()
        return most

    def start(self, job: Job) -> BaseProcess:
        process = CONTEXT.Process(target=_alone, args=(job, self.log))
        process.start()
        with contextlib.suppress(OSError):  # the child does it too: whoever comes first
            os.setpgid(process.pid, process.pid)
        return process

    def wait(self, process: BaseProcess) -> int | None:
        process.join(LONGEST_SECONDS)
        if process.is_alive():
            kill_all(process)
            raise AssertionError(f"hangs for {LONGEST_SECONDS} s: {self.last_words()}")
        return process.exitcode

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def wait_for_change(folder: Path, process: BaseProcess) -> None:
    """Returns when a file or folder below `folder` has come, gone or been written, or the process has ended."""
    before = _state_of(folder)
    until = time.monotonic() + LONGEST_SECONDS
    while process.is_alive() and _state_of(folder) == before:
        assert time.monotonic() < until, f"hangs for {LONGEST_SECONDS} s"
        time.sleep(0.002)


def _state_of(folder: Path) -> set[tuple[str, int]]:
    state = set()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            state.add((str(path), path.stat().st_mtime_ns))
    return state


def kill_all(process: BaseProcess) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _alone(job: Job, log: Path) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    # pytest has put others in their place
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    tqdm.set_lock(threading.RLock())  # the usual one is shared: a killed job that has it keeps it
    logging.basicConfig(level=logging.WARNING, force=True)
    faulthandler.enable()
    faulthandler.dump_traceback_later(LONGEST_SECONDS - 10)
    job()
