"""One run of a script in a process of its own, with its log, its time and its memory."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..whole_files import write_whole

RECORD_NAME, LOG_NAME, LOCK_NAME = "run.json", "log.txt", ".lock"


def run_script(script: str, options: list[str], folder: str, threads: int, version: str | None) -> None:
    """
    Runs `python SCRIPT OPTIONS` in this process and leaves `log.txt` and, if the script ends well, `run.json` in
    `folder`. Where another process is at work in the folder its end is waited for; what it finished is not repeated.

    Args:
        threads: of torch and its libraries.
        version: of the code, for the record.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder, LOCK_NAME), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if Path(folder, RECORD_NAME).is_file():
            return
        _redirect_output(Path(folder, LOG_NAME))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        sys.argv = [script, *options]
        started = time.perf_counter()
        runpy.run_path(script, run_name="__main__")
        record = {"seconds": time.perf_counter() - started, "code": version, "threads": threads, **peak_memory()}
        write_whole(Path(folder, RECORD_NAME), json.dumps(record, indent=2) + "\n")


def peak_memory() -> dict[str, Any]:
    """
    The most memory in bytes that this process has held: of its accelerator as far as tensors took it, otherwise of the
    machine, with everything that Python and its libraries need (some 0.6 GB before the first model).
    """
    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "peak_memory": torch.cuda.max_memory_allocated()}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"device": "cpu", "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def code_version() -> str | None:
    """The commit of this package's source tree, with `+` where files differ from it; `None` outside one."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _redirect_output(log: Path) -> None:
    """Everything that this process and its own children print from now on."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
