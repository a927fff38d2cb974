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

from hf_emktd.training import MONITOR_FOLDER, find_monitor, load_config, load_model, load_monitor
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


def test_config_alone(teacher):
    assert load_config(str(teacher)).to_dict() == load_model(str(teacher))[0].config.to_dict()
    with pytest.raises(ValueError, match=r"'nowhere' is no model .*there is no folder 'nowhere'"):
        load_config("nowhere")
    (teacher / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="a model of type 'bert' is no model for audio-visual"):
        load_config(str(teacher))


def test_options_reach_the_model(teacher):
    assert load_model(str(teacher), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_subfolder_is_that_of_model_and_processor(teacher):
    model, processor = load_model(str(teacher.parent), subfolder="teacher")
    assert torch.equal(model.classifier.dense.weight, make_model(seed=1).classifier.dense.weight)
    assert isinstance(processor, CavMaeProcessor)


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
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the last test's
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

    @pytest.fixture
    def two_versions(self, hub, teacher):
        """Its first is tagged v1; the second has other weights and a processor of other constants."""
        hub.create_repo("org/teacher")
        for seed, mean in ((1, 0.5), (2, 0.25)):
            make_model(seed=seed).save_pretrained(teacher)
            processor = CavMaeProcessor.from_config(make_model().config)
            processor.feature_extractor.mean = mean
            processor.save_pretrained(teacher)
            hub.upload_folder(repo_id="org/teacher", folder_path=teacher)
            if seed == 1:
                first = hub.repo_info("org/teacher").sha
                hub.create_branch("org/teacher", branch="v1")
        return first

    @pytest.mark.parametrize("revision", ["v1", "commit", None])
    def test_model_and_processor_are_of_one_revision(self, two_versions, tmp_path, revision):
        named = {None: {}, "commit": {"revision": two_versions}}.get(revision, {"revision": revision})
        elsewhere = tmp_path / "elsewhere"
        model, processor = load_model("org/teacher", token=WRITE_TOKEN, cache_dir=str(elsewhere), **named)
        expected = make_model(seed=2 if revision is None else 1)
        assert torch.equal(model.classifier.dense.weight, expected.classifier.dense.weight)
        assert processor.feature_extractor.mean == (0.25 if revision is None else 0.5)
        assert elsewhere.exists() and not list((tmp_path / "hub").rglob("*.safetensors"))
        again, _ = load_model("org/teacher", cache_dir=str(elsewhere), local_files_only=True, **named)
        assert torch.equal(again.classifier.dense.weight, model.classifier.dense.weight)

    def test_a_damaged_download_of_a_revision_is_found(self, two_versions, tmp_path):
        load_model("org/teacher", token=WRITE_TOKEN, revision="v1")
        (weights,) = (tmp_path / "hub").rglob("snapshots/*/model.safetensors")
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.resolve().write_bytes(bytes(content))
        with pytest.raises(ValueError, match=r"model\.safetensors came damaged from the Hub"):
            load_model("org/teacher", token=WRITE_TOKEN, revision="v1")

    def test_no_such_repository(self, hub, tmp_path):
        assert find_monitor("org/nobody", tmp_path) is None
        with pytest.raises(ValueError, match="'org/nobody' is no model this library can load"):
            load_model("org/nobody")


class TestMonitor:
    def test_of_a_teacher_without_one(self, teacher):
        assert find_monitor(teacher) is None
        with pytest.raises(ValueError, match="is no monitor and has none in entropy_monitor/; make one with"):
            load_monitor(teacher)

    def test_of_a_folder_that_is_one(self, teacher, tmp_path):
        monitor = make_monitor(make_model(seed=1))
        monitor.save_pretrained(tmp_path / "monitor")
        found = load_monitor(tmp_path / "monitor")
        assert torch.equal(found.probes["audio"][-1].weight, monitor.probes["audio"][-1].weight)

    def test_the_first_of_several_places(self, teacher, tmp_path):
        monitor = make_monitor(make_model(seed=1))
        monitor.save_pretrained(tmp_path / "run" / MONITOR_FOLDER)
        found = find_monitor(teacher, tmp_path / "nowhere", tmp_path / "run")
        assert torch.equal(found.probes["audio"][-1].weight, monitor.probes["audio"][-1].weight)
        torch.nn.init.zeros_(monitor.probes["audio"][-1].weight)
        monitor.save_pretrained(teacher / MONITOR_FOLDER)
        assert not find_monitor(teacher, tmp_path / "run").probes["audio"][-1].weight.any()
        assert not load_monitor(teacher).probes["audio"][-1].weight.any()
