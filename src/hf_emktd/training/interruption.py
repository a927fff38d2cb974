"""SIGTERM and SIGINT: what a run saves before it ends, and how it says that it can go on."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..hub.publish import PublishError
from .process_group import end_process_group

# ways on from a script that was ended
RESUME = "The same command with --resume_from_checkpoint last goes on from there."
AGAIN = "The same command goes on from there."

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# launchers hand a signal on that the terminal has sent to all processes already
SAME_SIGNAL_SECONDS = 2.0
# of a folder that cannot be written to, or no more
FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class Interrupted(KeyboardInterrupt):
    """
    A signal that ended a run.

    Args:
        signum: the signal.
        saved: *optional*, what was saved before.
    """

    def __init__(self, signum: int, saved: str = "") -> None:
        super().__init__(f"{signal.Signals(signum).name}. {saved}".rstrip())
        self.signum = signum
        self.saved = saved


class CheckpointError(OSError):
    """A checkpoint that cannot be saved, or resumed from."""


class ResumeError(ValueError):
    """A run that cannot be resumed as it was asked, and will not be by the same command again."""


class Deferred:
    """
    A signal that was asked for and is obeyed later.

    Attributes:
        signum: the signal, 0 while there was none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._asked_at = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGINT and time.monotonic() > self._asked_at + SAME_SIGNAL_SECONDS:
            raise Interrupted(signum, "Nothing was saved.")
        if not self.signum:
            self.signum, self._asked_at = signum, time.monotonic()


@contextmanager
def signals_deferred() -> Iterator[Deferred]:
    """A second Ctrl-C after two seconds ends the program at once."""
    deferred = Deferred()
    with _handled(deferred):
        yield deferred


@contextmanager
def ending_in_one_line(way_on: str) -> Iterator[None]:
    """
    Around a whole script: a signal, a disk that is full or cannot be written to, or a push that failed ends it with
    one line that says how to go on, without a traceback. The status is that of the signal (143, 130), or 1.
    """
    try:
        with _handled(_raise):
            yield
    except KeyboardInterrupt as interruption:
        signum = interruption.signum if isinstance(interruption, Interrupted) else signal.SIGINT
        saved = getattr(interruption, "saved", "")
        if saved:  # by all ranks
            end_process_group()
        _end(f"ended by {signal.Signals(signum).name}. {saved}", way_on, 128 + signum)
    except (CheckpointError, PublishError, ResumeError) as error:
        _end(f"error: {error}", way_on if isinstance(error, CheckpointError) else "", 1)
    except OSError as error:
        if error.errno not in FULL_OR_FORBIDDEN:
            raise
        _end(f"error: {error}. Free space there, or name another folder.", way_on, 1)


def _end(reason: str, way_on: str, status: int) -> None:
    # a signal comes to all ranks, an error perhaps to one
    if status == 1 or int(os.environ.get("RANK", "0")) == 0:
        line = " ".join(f"{Path(sys.argv[0]).name}: {reason} {way_on}".split())
        print(line, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


@contextmanager
def _handled(handler) -> Iterator[None]:
    """Python calls handlers in its main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        return handler(signum, frame) if os.getpid() == process else _in_worker(signum)

    before = {signum: signal.signal(signum, handle) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, handler_before)


def _in_worker(signum: int) -> None:
    """A forked worker leaves Ctrl-C to its parent, and ends when it is told to."""
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
