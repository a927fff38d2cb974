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
from functools import cache
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import _forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm import tqdm

from hf_emktd.benchmark.execution import PRELOADED

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
        self.context = nursery()
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
        process = self.context.Process(target=_alone, args=(job, self.log))
        process.start()
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
    for kill in (os.killpg, os.kill):  # before the process has begun it has no group
        with contextlib.suppress(ProcessLookupError):
            kill(process.pid, signal.SIGKILL)
    process.join()


@cache
def nursery() -> BaseContext:
    """
    Forks jobs from a process that has imported what takes longer than they do, and has computed nothing: torch's
    threads do not survive a fork.
    """
    _forkserver._stop()  # another test's, which has imported other things
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "hf_emktd.export"])
    return context


def _alone(job: Job, log: Path) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    # what is written is read while the job runs
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    tqdm.set_lock(threading.RLock())  # the usual one is shared: a killed job that has it keeps it
    logging.basicConfig(level=logging.WARNING, force=True)
    faulthandler.enable()
    faulthandler.dump_traceback_later(LONGEST_SECONDS - 10)
    job()
