"""A sample of the edits of `tests/torture/test_strangers_torture.py`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from tiny_runs import make_model, make_monitor

from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER, find_monitor, load_model

sys.path.insert(0, str(Path(__file__).parents[1]))

from edited_files import try_edits

EVERY = 60
EVERY_OF_MONITORS = 20  # their files are small


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edited") / "model"
    model = make_model(seed=1)
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    make_monitor(model).save_pretrained(folder / MONITOR_FOLDER)
    return folder


def test_models_are_loaded_or_refused(original, tmp_path):
    names = ["config.json", "processor_config.json", "model.safetensors"]
    outcomes = try_edits(original, names, lambda folder: load_model(str(folder)), EVERY, tmp_path / "work")
    assert outcomes["refused"] > outcomes["loaded"] > 0


def test_an_auto_map_that_names_nothing(original, tmp_path):
    """Of all edits the only one that ended in another exception: transformers takes the first of no entries."""
    folder = shutil.copytree(original, tmp_path / "work")
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"]["auto_map"]["AutoImageProcessor"] = {}
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"no model this library can load: .*StopIteration"):
        load_model(str(folder))


def test_monitors_are_loaded_or_refused(original, tmp_path):
    names = [f"{MONITOR_FOLDER}/config.json", f"{MONITOR_FOLDER}/model.safetensors"]
    outcomes = try_edits(original, names, find_monitor, EVERY_OF_MONITORS, tmp_path / "work")
    assert outcomes["refused"] > 0 and outcomes["loaded"] > 0
