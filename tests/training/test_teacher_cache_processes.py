"""A teacher cache written by several processes, or by one that is killed, is that of one process undisturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import teacher_cache_driver

from hf_emktd.training.teacher_cache import MANIFEST_NAME, SHARDS_FOLDER, TeacherCache

DRIVER = teacher_cache_driver.__file__
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def arguments(folder: Path, table: Path, cache: Path, seconds: float = 0.0) -> list[str]:
    return [DRIVER, str(folder), str(table), str(cache), str(seconds)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*(folder / SHARDS_FOLDER).iterdir(), folder / MANIFEST_NAME]}


@pytest.fixture
def written(table, tmp_path) -> Path:
    """By this process, undisturbed."""
    teacher_cache_driver.write(tmp_path / "one", table)
    return tmp_path / "one"


def test_two_processes_write_the_same(written, table, cache, tmp_path):
    folder = tmp_path / "two"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += arguments(folder, table, cache)
    ended = subprocess.run(
        [sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert files_of(folder) == files_of(written)
    assert len(TeacherCache(folder).rows) == 36


def test_a_killed_run_loses_one_shard(written, table, cache, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, *arguments(folder, table, cache, 0.2)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    while len(list((folder / SHARDS_FOLDER).glob("view*"))) < 4 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = {path: path.stat().st_mtime_ns for path in (folder / SHARDS_FOLDER).glob("view*")}
    assert 4 <= len(whole) < 9
    teacher_cache_driver.write(folder, table)
    assert files_of(folder) == files_of(written)
    kept = [path for path, changed in whole.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) >= len(whole) - 1
