"""Data sets made on first use: checked options, a folder for each choice of them, never a half-made set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import datasets
from datasets.utils import tqdm

from ..whole_files import unfinished_beside
from .processes import fork_without_garbage

__all__ = ["check_options", "default_folder", "identity_of", "in_processes", "make_once"]

# a further process only pays off for this many clips
CLIPS_PER_PROCESS = 64


def check_options(options: Any) -> None:
    """
    Checks a frozen dataclass of options in its `__post_init__`: a field whose default is a tuple is a range
    `(low, high)`, any other a number that is not negative. Lists, from JSON and YAML, become tuples.

    Raises:
        ValueError: naming the field.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(option.default, tuple):
            object.__setattr__(options, option.name, tuple(value))
            _check_range(option.name, tuple(value))
        elif value < 0:
            raise ValueError(f"{option.name} must not be negative, got {value}.")


def _check_range(name: str, value: tuple[float, ...]) -> None:
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError(f"{name} must be a range (low, high), got {value}.")


def identity_of(options: Any, **more: Any) -> dict[str, Any]:
    """What tells one set from another, as plain JSON values: the options' fields and `more`."""
    return json.loads(json.dumps({**more, **asdict(options)}))


def default_folder(kind: str, identity: dict[str, Any]) -> Path:
    """The place of a set in the `datasets` cache directory."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE) / kind / digest


def make_once(folder: Path, kind: str, identity: dict[str, Any], write_set: Callable[[Path], None]) -> None:
    """
    Makes a set beside its place and moves it there whole, unless it is there already; so an interrupted one is never
    taken for complete, and of two processes that make the same set one is used.

    Args:
        folder: place of the set; absent or empty, or already this set.
        kind: name of the data set; `<kind>.json` in the folder holds its identity.
        identity: of [`identity_of`].
        write_set: makes the set in the folder it is given, which does not exist.

    Raises:
        ValueError: if the folder holds something else, or a set with another identity.
    """
    if _holds(folder, kind, identity):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(folder)
    try:
        write_set(unfinished)
        (unfinished / f"{kind}.json").write_text(json.dumps(identity, indent=2) + "\n")
        _move(unfinished, folder, kind, identity)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _move(unfinished: Path, folder: Path, kind: str, identity: dict[str, Any]) -> None:
    try:
        os.replace(unfinished, folder)
    except OSError:
        # another process may have finished the same set first
        if not _holds(folder, kind, identity):
            raise


def _holds(folder: Path, kind: str, identity: dict[str, Any]) -> bool:
    """Whether `folder` is this set; an empty or absent folder is free to use."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / f"{kind}.json").exists():
        raise ValueError(f"{folder} is not empty and not a {kind} set; choose another data_dir.")
    found = json.loads((folder / f"{kind}.json").read_text())
    differing = [
        f"{name}={found.get(name)} (asked: {asked})" for name, asked in identity.items() if found.get(name) != asked
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a {kind} set with {', '.join(differing)}; ask for these options, choose another "
            "data_dir or delete the folder."
        )
    return True


def in_processes(function: Callable[[Any], None], jobs: list[Any], num_proc: int | None, description: str) -> None:
    """Calls `function` with every job, in `num_proc` processes or, by default, one a core; at most one for 64 jobs."""
    num_proc = min(num_proc or os.cpu_count() or 1, max(1, len(jobs) // CLIPS_PER_PROCESS))
    for _ in tqdm(_results(function, jobs, num_proc), total=len(jobs), desc=description, unit="clips"):
        pass


def _results(function: Callable[[Any], None], jobs: list[Any], num_proc: int) -> Iterator[None]:
    if num_proc == 1:
        yield from map(function, jobs)
        return
    with fork_without_garbage(), ProcessPoolExecutor(num_proc) as executor:
        yield from executor.map(function, jobs, chunksize=16)
