"""Files and folders of which a reader, or a process that is killed, never leaves or sees half."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from itertools import count
from pathlib import Path

from safetensors import SafetensorError

# what says that a folder holds a model
MARKER = "config.json"
_numbers = count()


def write_whole(path: Path, text: str) -> Path:
    """Writes a text file, whole or not at all."""
    unfinished = unfinished_beside(path)
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def sha256_of(path: Path) -> str:
    """Hexadecimal checksum of a file, which is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(directory: Path, replaced: Sequence[str] = ()) -> Iterator[Path]:
    """
    A hidden folder, whose files take their places in `directory` if the block ends well. Other files there stay, but
    for those that match `replaced`. While files change places there is no `config.json`: a folder with one is whole.

    Raises:
        OSError: if the folder cannot be written; `directory` is then as it was.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    # inside a folder that exists: it may be a volume of its own, into which nothing can be moved
    unfinished = unfinished_beside(directory / "all" if directory.exists() else directory)
    unfinished.mkdir()
    try:
        yield unfinished
        if not directory.exists():
            unfinished.rename(directory)
        else:
            _replace_files(unfinished, directory, replaced)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(directory)) from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _replace_files(source: Path, target: Path, replaced: Sequence[str]) -> None:
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    if Path(MARKER) in files:
        (target / MARKER).unlink(missing_ok=True)
    for old in [path for pattern in replaced for path in target.glob(pattern)]:
        if old.relative_to(target) not in files:
            old.unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: (file == Path(MARKER), file)):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / file, target / file)


def unfinished_beside(path: Path) -> Path:
    """A hidden name of this call's own beside `path`; what killed processes left under theirs is removed."""
    stem = f".{path.name}.saving-{socket.gethostname()}-"
    for leftover in path.parent.glob(f"{escape(stem)}*"):
        owner = leftover.name.removeprefix(stem).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f"{stem}{os.getpid()}-{next(_numbers)}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True
