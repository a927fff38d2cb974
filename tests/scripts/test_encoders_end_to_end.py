"""Two encoders of transformers as teacher of a CAV-MAE and as its student: trained, distilled, loaded, asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from script_runs import ONE_EPOCH
from transformers import AutoModel, AutoProcessor

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_runs import LABELS, make_model, make_table

from hf_emktd import (
    AudioVisualEncoderForAudioVisualClassification,
    CavMaeConfig,
    CavMaeForAudioVisualClassification,
    CavMaeProcessor,
)
from hf_emktd.distillation import EntropyMonitor
from hf_emktd.training import MONITOR_FOLDER
from tiny_encoders import make_audio_config, make_config

# 32 mel bins as the tiny CAV-MAE has; overlapping patches, 7 x 7 tokens
SOUND = make_audio_config(num_mel_bins=32)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return make_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def encoders_teacher(workplace, table, tmp_path_factory) -> Path:
    """AST and DINOv2, fine-tuned on the table from random weights for other classes."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    model = AudioVisualEncoderForAudioVisualClassification(make_config(audio_config=SOUND))
    model.save_pretrained(folder / "joined")
    CavMaeProcessor.from_config(model.config).save_pretrained(folder / "joined")
    options = ["--init", folder / "joined", "--dataset", table, *ONE_EPOCH, "--freeze", "audio_encoder"]
    options += ["--num_train_epochs", "3"]  # the learning rate of the first step is 0
    ended = workplace.run_here("train_teacher.py", *options, "--output_dir", folder / "teacher")
    assert ended.status == 0, ended.err
    return folder / "teacher"


def config_alone(config, folder: Path) -> Path:
    """A folder that `--student` takes."""
    config.save_pretrained(folder)
    return folder


def test_the_teacher_has_the_tables_classes_and_a_frozen_ear(encoders_teacher):
    start, trained = (AutoModel.from_pretrained(encoders_teacher.with_name(name)) for name in ("joined", "teacher"))
    assert list(trained.config.id2label.values()) == LABELS
    weights = dict(start.named_parameters())
    changed = {name for name, value in trained.named_parameters() if not torch.equal(value, weights[name])}
    assert any(".visual_encoder." in name for name in changed) and any(".fusion." in name for name in changed)
    assert not any(".audio_encoder." in name for name in changed)


def test_teaches_a_cav_mae(workplace, encoders_teacher, tmp_path):
    student = config_alone(make_model().config, tmp_path / "config")
    options = ["--student", student, "--output_dir", tmp_path / "student", *ONE_EPOCH]
    results = workplace.run_here("distill.py", "--teacher", encoders_teacher, *options).results
    assert results["results"]["both"]["clips"] == 7 and results["objective"] == ["em_ktd", "kd"]
    model = AutoModel.from_pretrained(tmp_path / "student")
    assert type(model) is CavMaeForAudioVisualClassification
    monitor = EntropyMonitor.from_pretrained(tmp_path / "student" / MONITOR_FOLDER)
    assert monitor.config.branch_widths == {"audio": 16, "visual": 16, "fusion": 24}


@pytest.fixture(scope="module")
def cav_mae_teacher(workplace, table, tmp_path_factory) -> Path:
    """Grids of 8 x 8 and 4 x 4 tokens."""
    folder = tmp_path_factory.mktemp("cav-mae") / "teacher"
    fields = [
        f"{name}={value}" for name, value in make_model(patch_size=4).config.to_diff_dict().items() if name in SIZES
    ]
    options = ["--preset", "tiny", "--config_fields", *fields, "--dataset", table, *ONE_EPOCH, "--output_dir", folder]
    ended = workplace.run_here("train_teacher.py", *options)
    assert ended.status == 0, ended.err
    return folder


SIZES = set(CavMaeConfig().to_dict()) & {"hidden_size", "num_attention_heads", "modality_specific_depth", "patch_size"}
SIZES |= {"audio_length", "num_mel_bins", "image_size"}


def test_is_taught_by_a_cav_mae(workplace, cav_mae_teacher, tmp_path):
    sound = make_audio_config(num_mel_bins=32, frequency_stride=8, time_stride=8)
    student = config_alone(make_config(audio_config=sound), tmp_path / "config")
    fields = ["vision_config.num_hidden_layers=1"]
    options = ["--student", student, "--student_fields", *fields, "--output_dir", tmp_path / "student", *ONE_EPOCH]
    results = workplace.run_here("distill.py", "--teacher", cav_mae_teacher, *options).results
    assert set(results["results"]) == {"both", "audio", "visual"}
    model, processor = (auto.from_pretrained(tmp_path / "student") for auto in (AutoModel, AutoProcessor))
    assert type(model) is AudioVisualEncoderForAudioVisualClassification
    assert list(model.config.id2label.values()) == LABELS and model.config.vision_config.num_hidden_layers == 1
    assert model.config.audio_grid == (4, 4) and processor.feature_extractor.audio_length == 32

    report = workplace.run_here("evaluate.py", "--model", tmp_path / "student", "--teacher", cav_mae_teacher).results
    assert report["results"]["both"]["mAP"] == pytest.approx(results["results"]["both"]["mAP"], abs=1e-6)
    sound = next(cav_mae_teacher.parents[1].glob("table*/test0.wav"))
    ended = workplace.run_here("predict.py", sound, "--model", tmp_path / "student", "--json", tmp_path / "said.json")
    assert ended.status == 0, ended.err
    (said,) = json.loads((tmp_path / "said.json").read_text())["clips"]
    assert {entry["label"] for entry in said["top"]["audio"]} == set(LABELS)
