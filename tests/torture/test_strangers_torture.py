"""Every value of every JSON file of a stranger's folder replaced by odd ones or left out, and the bytes of its other
files damaged: loaded or refused in one message, in time and in bounded memory."""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
import pytest
import torch
from test_teacher_cache import write
from tiny_runs import make_model, make_monitor, make_table

from edited_files import try_edits

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from clip_files import write_clips

from hf_emktd.data import ClipTable, load_shards, write_shards
from hf_emktd.data.clip_stream import ClipStream
from hf_emktd.distillation.token_codes import PlainTokens
from hf_emktd.export import OnnxModel, export_model, write_preprocessing
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER, ClipData, DataArguments, find_monitor, load_model
from hf_emktd.training.teacher_cache import SHARDS_FOLDER, TeacherCache

pytestmark = pytest.mark.torture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


@pytest.fixture
def model_folder(tmp_path) -> Path:
    folder, model = tmp_path / "model", make_model(seed=1)
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    make_monitor(model).save_pretrained(folder / MONITOR_FOLDER)
    return folder


def told(name: str, outcomes: dict[str, int]) -> None:
    print(f"{name}: {sum(outcomes.values()):,} edits, {outcomes}")
    assert all(outcomes.values()), "edits of only one kind"


def test_models(model_folder, tmp_path):
    names = ["config.json", "processor_config.json", "model.safetensors"]
    told("models", try_edits(model_folder, names, lambda folder: load_model(str(folder)), 1, tmp_path / "work"))


def test_monitors(model_folder, tmp_path):
    names = [f"{MONITOR_FOLDER}/config.json", f"{MONITOR_FOLDER}/model.safetensors"]
    told("monitors", try_edits(model_folder, names, find_monitor, 1, tmp_path / "work"))


def test_teacher_caches(tmp_path):
    (tmp_path / "clips").mkdir()
    table = make_table(tmp_path / "clips")
    data = ClipData(DataArguments(dataset=str(table)), CavMaeProcessor.from_config(make_model().config))
    write(tmp_path / "cache", data, PlainTokens())
    names = ["teacher_cache.json", f"{SHARDS_FOLDER}/view-000-clips-00000000-00000005.parquet"]
    told("teacher caches", try_edits(tmp_path / "cache", names, TeacherCache, 1, tmp_path / "work"))


def test_exports(tmp_path):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "modality_specific_depth": 1, "image_size": 32}
    config = CavMaeConfig(**sizes, audio_length=64, num_mel_bins=64, num_labels=3)
    model = CavMaeForAudioVisualClassification(config).eval()
    export_model(model, tmp_path / "export", ["onnx"], ["both", "audio"])
    write_preprocessing(config, CavMaeProcessor.from_config(config), tmp_path / "export")
    names = ["config.json", "model.onnx", "model_audio.onnx"]
    told("exports", try_edits(tmp_path / "export", names, OnnxModel.from_pretrained, 1, tmp_path / "work"))


def test_shards(tmp_path):
    """Of the index all values, and every clip is read; of a tar archive, one in ten of the damages."""
    processor = CavMaeProcessor.from_config(CavMaeConfig(num_mel_bins=16, audio_length=48, image_size=32))
    (tmp_path / "clips").mkdir()
    source = ClipTable(write_clips(tmp_path / "clips"))
    write_shards(source, tmp_path / "shards", store="media", container="webdataset", clips_per_shard=20)
    told("shards", try_edits(tmp_path / "shards", ["shards.json"], load_shards, 1, tmp_path / "index"))

    def read(folder: Path) -> None:
        index = load_shards(folder)
        for _ in ClipStream(index, "train", processor, num_frames=2).rows():
            pass

    (split,) = {shard.file for shard in load_shards(tmp_path / "shards").splits["train"]}
    told("archives", try_edits(tmp_path / "shards", [split], read, 10, tmp_path / "work"))
