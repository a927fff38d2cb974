"""Folders that a stranger may hand over, one of their files edited: loaded, or refused in one message."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mutations import mutate

ODD_VALUES = (0, -1, 1, 2**31, 10**12, 2**70, 0.5, -1e308, float("nan"), float("inf"), True, None, "", "x", "1")
ODD_VALUES += ("../../etc/passwd", "/dev/zero", "https://elsewhere.invalid/x", "{0.__class__}", "a" * 10**5)
ODD_VALUES += ([], [0], [10**12] * 3, {}, {"x": 1}, [[[]]])
# Of one file; a load of these folders takes far less than a second and some ten megabytes.
MOST_SECONDS, MOST_MEGABYTES = 30, 1000


def edited_json(content: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Each value of a JSON file with another in its place, and each left out."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        for odd in ODD_VALUES:
            yield (*path, key), odd
        yield (*path, key), KeyError
        yield from edited_json(value, (*path, key))


def apply(content: Any, path: tuple, value: Any) -> Any:
    changed = json.loads(json.dumps(content))
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


def try_edits(original: Path, names: list[str], load: Callable[[Path], Any], every: int, work: Path) -> dict[str, int]:
    """
    Edits each `every`-th place of the JSON files, and the bytes of the others as often.

    Returns:
        How many were loaded and how many refused.

    Raises:
        AssertionError: naming an edit that ended in another exception, took long or much memory.
    """
    outcomes = {"loaded": 0, "refused": 0}
    folder = Path(shutil.copytree(original, work))
    for name in names:
        content = (folder / name).read_bytes()
        for label, edit in edits(name, content, every):
            (folder / name).write_bytes(edit)
            outcomes[outcome(lambda: load(folder), f"{name}: {label}")] += 1
        (folder / name).write_bytes(content)
    return outcomes


def edits(name: str, content: bytes, every: int) -> Iterator[tuple[str, bytes]]:
    if not name.endswith(".json"):
        for number in range(300 // every):
            yield f"mutation {number}", mutate(content, (hash_of(name), number))
        return
    plain = json.loads(content)
    for number, (path, value) in enumerate(edited_json(plain)):
        if number % every == 0:
            yield f"{path} = {str(value)[:60]}", json.dumps(apply(plain, path, value)).encode()


def hash_of(name: str) -> int:
    return sum(name.encode())


def outcome(load: Callable[[], Any], label: str) -> str:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        load()
        ended = "loaded"
    except ValueError as error:
        assert str(error), label
        ended = "refused"
    except Exception as error:
        raise AssertionError(f"{label}: {type(error).__name__}: {error}") from error
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    assert time.monotonic() - started < MOST_SECONDS, f"{label}: {time.monotonic() - started:.0f} s"
    assert megabytes < MOST_MEGABYTES, f"{label}: {megabytes:.0f} MB more"
    return ended
