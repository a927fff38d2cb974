"""Starts drivers on several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "scripts" / "accelerate_configs" / "cpu_2.yaml"


@dataclass
class Ended:
    """How a launch ended: its status, and what it said."""

    status: int
    said: str

    @property
    def root_cause(self) -> str:
        """What the launcher names as the first failure, with its traceback."""
        return self.said.partition("Root Cause (first observed failure):")[2]


def launch(driver: str, *arguments: str | Path, processes: int = 2, seconds: float = 300) -> Ended:
    """Runs `driver`, a file beside this one, on processes on the CPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIG]
    command += ["--num_processes", str(processes), Path(__file__).with_name(driver), *arguments]
    ended = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)
