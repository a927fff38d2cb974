from __future__ import annotations

from pathlib import Path

import pytest

from hf_emktd.benchmark import Benchmark, Executor
from hf_emktd.models.avsegformer import AvSegFormerConfig
from hf_emktd.models.cav_mae import CavMaeConfig


@pytest.fixture
def benchmark(tmp_path) -> Benchmark:
    """Of a teacher that nobody has trained: its config is all that is asked for before a student runs."""
    config = CavMaeConfig(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2)
    config.save_pretrained(tmp_path / "teacher")
    return make_benchmark(tmp_path)


@pytest.fixture
def mask_benchmark(tmp_path) -> Benchmark:
    AvSegFormerConfig().save_pretrained(tmp_path / "teacher")
    return make_benchmark(tmp_path)


def make_benchmark(folder: Path) -> Benchmark:
    executor = Executor(1, print)
    return Benchmark(folder / "runs", Path("scripts"), executor, teacher=str(folder / "teacher"))
