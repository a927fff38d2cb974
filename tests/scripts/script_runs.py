"""Runs the scripts as users do, as processes; or in this process, where that is not the point and seconds count."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
ACCELERATE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]

# 40 / 10 / 20 clips of 32 x 32 pixels, a teacher of about 50,000 parameters
TOUCHTONE = json.dumps({"num_train": 40, "num_validation": 10, "num_test": 20, "image_size": 32})
TINY = ["hidden_size=32", "num_attention_heads=4", "modality_specific_depth=1", "patch_size=8"]
INPUTS = ["audio_length=64", "num_mel_bins=64", "image_size=32"]
TEACHER = ["--preset", "tiny", "--config_fields", *TINY, *INPUTS]
ONE_EPOCH = ["--num_train_epochs", "1", "--per_device_train_batch_size", "20"]
ONE_EPOCH += ["--save_strategy", "no", "--report_to", "none", "--use_cpu", "--disable_tqdm", "true"]


@dataclass
class Ended:
    """How a script ended: exit status, what it printed, and what it said on the other channel."""

    status: int
    out: str
    err: str

    @property
    def results(self) -> dict[str, Any]:
        assert self.status == 0, self.err
        return json.loads(self.out[self.out.index("{\n") :])


class Workplace:
    """A folder for the data sets' caches, and the environment that makes scripts use it."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "datasets"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self.environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(self, *command: str | Path, environment: dict[str, str] | None = None, **options: Any) -> Ended:
        """`python COMMAND`, in a process of its own; scripts by name."""
        environment = (environment or self.environment) | {"HF_DATASETS_CACHE": str(self.cache)}
        words = [sys.executable, *[str(SCRIPTS / word if word in SCRIPT_NAMES else word) for word in command]]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, **options)
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def run_here(self, script: str, *options: str | Path) -> Ended:
        """A script in this process."""
        out, err, status = io.StringIO(), io.StringIO(), None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(SCRIPTS / script), *map(str, options)])
            patch.setattr(datasets.config, "HF_DATASETS_CACHE", self.cache)
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
                except SystemExit as ended:
                    status = ended.code
        if isinstance(status, str):
            err.write(status)
            status = 1
        return Ended(status or 0, out.getvalue(), err.getvalue())


SCRIPT_NAMES = {path.name for path in SCRIPTS.glob("*.py")}
