"""Models and monitors by name."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import make_model, make_monitor

from hf_emktd.models.cav_mae import CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER, find_monitor, load_model, load_monitor


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
