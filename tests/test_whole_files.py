"""Files and folders are written whole or not at all."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hf_emktd.whole_files import write_whole, written_whole


def left_by(process: int, name: str) -> str:
    return f".{name}.saving-{socket.gethostname()}-{process}-0"


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.txt", "new \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = left_by(gone.pid, "model"), left_by(1, "model")
    other = f".model.saving-elsewhere-{gone.pid}-0"
    for name in (dead, alive, other):
        (tmp_path / name).mkdir()
    with written_whole(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {"model", alive, other}


def test_a_folder_takes_its_files_at_the_end(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "checkpoint").write_text("stays")
    (target / "model.old").write_text("goes")
    with written_whole(target, ["model.*"]) as folder:
        (folder / "sub").mkdir()
        for name in ("config.json", "model.new", "sub/file"):
            (folder / name).write_text(name)
        assert not (target / "config.json").exists()
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {"checkpoint", "config.json", "model.new", "sub/file"}


def test_a_full_disk_is_the_same_error_for_weights(tmp_path):
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left on device") as failure, written_whole(tmp_path / "model"):
        raise SafetensorError(full)
    assert failure.value.errno == errno.ENOSPC and Path(failure.value.filename) == tmp_path / "model"
    assert list(tmp_path.iterdir()) == []
