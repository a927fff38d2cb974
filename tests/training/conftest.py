from __future__ import annotations

import sys
import wave
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent))

from tiny_runs import LABELS, make_model

from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import ClipData, DataArguments


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tensors this small only wait for each other on several threads: ten times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_accelerator_state():
    """One test's precision or process group is not the next one's."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A table of 12 training, 6 validation and 7 test clips: tones of a class's pitch and squares of its colour."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    lines = ["split,label,image,audio"]
    for split, count in (("train", 12), ("validation", 6), ("test", 7)):
        for index in range(count):
            label = index % len(LABELS)
            name = f"{split}{index}"
            _write_sound(folder / f"{name}.wav", 300 * (label + 1), random)
            Image.fromarray(random.integers(0, 80 * (label + 1), (20, 24, 3), np.uint8)).save(folder / f"{name}.png")
            lines.append(f"{split},{LABELS[label]},{name}.png,{name}.wav")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def _write_sound(path: Path, hertz: float, random: np.random.Generator) -> None:
    samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4000) / 16000) + 0.05 * random.standard_normal(4000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples.clip(-1, 1) * 32767).astype(np.int16).tobytes())


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    """Features of these tests never meet a user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.fixture
def processor() -> CavMaeProcessor:
    return CavMaeProcessor.from_config(make_model().config)


@pytest.fixture
def data(table, processor) -> ClipData:
    return ClipData(DataArguments(dataset=str(table)), processor)


@pytest.fixture
def warnings_of_transformers(caplog):
    """`caplog` that also sees the loggers of this library, which hang below that of transformers."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()
