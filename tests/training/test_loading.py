"""Models and monitors by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, close_session, constants
from tiny_runs import make_model, make_monitor

from hf_emktd.models.cav_mae import CavMaeForAudioVisualClassification, CavMaeProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_emktd.training import MONITOR_FOLDER, find_monitor, load_model, load_monitor
from hub_server import NO_PROXY, WRITE_TOKEN, HubServer


@pytest.fixture
def teacher(tmp_path):
    """A teacher's directory."""
    model = make_model(seed=1)
    model.save_pretrained(tmp_path / "teacher")
    CavMaeProcessor.from_config(model.config).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_model_and_processor(teacher):
    model, processor = load_model(str(teacher))
    assert isinstance(model, CavMaeForAudioVisualClassification) and isinstance(processor, CavMaeProcessor)
    assert torch.equal(model.classifier.dense.weight, make_model(seed=1).classifier.dense.weight)


def test_options_reach_the_model(teacher):
    assert load_model(str(teacher), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "processor_config.json"])
def test_an_incomplete_directory_says_what_belongs_into_it(teacher, missing):
    (teacher / missing).unlink()
    with pytest.raises(ValueError, match=r"is no model this library can load: expected a directory with config\.json"):
        load_model(str(teacher))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine, the one of this process."""
    with HubServer() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("NO_PROXY", NO_PROXY)
        close_session()
        yield HfApi(endpoint=server.url, token=WRITE_TOKEN)
    close_session()


class TestHub:
    def test_monitor_in_the_folder_of_a_published_teacher(self, hub, teacher):
        monitor = make_monitor(make_model(seed=1))
        hub.create_repo("org/teacher")
        hub.upload_folder(repo_id="org/teacher", folder_path=teacher)
        assert find_monitor("org/teacher") is None
        monitor.save_pretrained(teacher / MONITOR_FOLDER)
        hub.upload_folder(repo_id="org/teacher", folder_path=teacher)
        found = find_monitor("org/teacher")
        assert torch.equal(found.probes["fusion"][-1].weight, monitor.probes["fusion"][-1].weight)

    def test_no_such_repository(self, hub, tmp_path):
        assert find_monitor("org/nobody", tmp_path) is None
        with pytest.raises(ValueError, match="'org/nobody' is no model this library can load"):
            load_model("org/nobody")


class TestMonitor:
    def test_of_a_teacher_without_one(self, teacher):
        assert find_monitor(teacher) is None
        with pytest.raises(ValueError, match="has no folder entropy_monitor/ with a monitor; make one with"):
            load_monitor(teacher)

    def test_the_first_of_several_places(self, teacher, tmp_path):
        monitor = make_monitor(make_model(seed=1))
        monitor.save_pretrained(tmp_path / "run" / MONITOR_FOLDER)
        found = find_monitor(teacher, tmp_path / "nowhere", tmp_path / "run")
        assert torch.equal(found.probes["audio"][-1].weight, monitor.probes["audio"][-1].weight)
        torch.nn.init.zeros_(monitor.probes["audio"][-1].weight)
        monitor.save_pretrained(teacher / MONITOR_FOLDER)
        assert not find_monitor(teacher, tmp_path / "run").probes["audio"][-1].weight.any()
        assert not load_monitor(teacher).probes["audio"][-1].weight.any()
