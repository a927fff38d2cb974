from __future__ import annotations

import sys
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent))

from tiny_runs import make_model, make_table

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
    """See `make_table`."""
    return make_table(tmp_path_factory.mktemp("clips"))


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
