"""Forking worker processes from a process that has read media."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fork_without_garbage() -> Iterator[None]:
    """
    Around code that forks workers. What this process has thrown away is freed first and the rest kept out of the
    workers' garbage collection: a decoder's frame that a worker frees waits for ever for threads that only its parent
    has.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
