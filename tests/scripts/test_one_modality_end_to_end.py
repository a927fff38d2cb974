"""Students that only hear or only see: distilled, saved, loaded, evaluated and asked about clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from script_runs import INPUTS, ONE_EPOCH, TINY, TOUCHTONE
from transformers import AutoModel, AutoProcessor

import hf_emktd  # noqa: F401  registers the Auto classes
from hf_emktd.hub import DistillationSummary
from hf_emktd.metrics import count_parameters

BEST_EPOCH = ["--num_train_epochs", "3", "--eval_strategy", "epoch", "--save_strategy", "epoch"]
BEST_EPOCH += ["--load_best_model_at_end", "true", "--metric_for_best_model", "accuracy"]


@pytest.fixture(scope="module")
def hearing(workplace, teacher, tmp_path_factory) -> Path:
    """A sound-only student of the audio-visual teacher, of the epoch that did best on the validation split."""
    folder = tmp_path_factory.mktemp("students") / "hearing"
    options = ["--student_modalities", "audio", "--objective", "em_ktd", "kd", "fd_cmkd", *ONE_EPOCH, *BEST_EPOCH]
    ended = workplace.run_here("distill.py", "--teacher", teacher, *options, "--output_dir", folder)
    assert ended.status == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def hearing_teacher(workplace, teacher, tmp_path_factory) -> Path:
    """A teacher that only hears; `teacher` has made the clips."""
    folder = tmp_path_factory.mktemp("models") / "hearing-teacher"
    config = ["--preset", "tiny", "--config_fields", *TINY, *INPUTS, 'modalities=["audio"]']
    data = ["--dataset", "touchtone", "--dataset_options", TOUCHTONE, "--mixup_probability", "0"]
    results = workplace.run_here("train_teacher.py", *config, *data, *ONE_EPOCH, "--output_dir", folder).results
    assert list(results["results"]) == ["audio"]
    return folder


def test_a_student_carries_one_modality_and_loads_as_any_model(hearing, teacher, clips):
    model, processor = AutoModel.from_pretrained(hearing), AutoProcessor.from_pretrained(hearing)
    assert model.config.modalities == ("audio",)
    assert not [name for name in model.state_dict() if "visual" in name]
    inputs = processor(clips=clips[:2], return_tensors="pt")
    assert set(inputs) == {"input_values"}
    assert model(**inputs).logits.shape == (2, 10)
    summary = DistillationSummary.load(hearing)
    assert summary.student.parameters == count_parameters(model)
    assert summary.student.modality == "audio" and summary.teacher.modality is None
    assert [objective.settings["name"] for objective in summary.objectives] == ["em_ktd", "kd", "fd_cmkd"]
    assert summary.objectives[0].settings["branches"] == ["audio", "fusion"]
    assert summary.objectives[2].settings["pairs"] == [["audio", "visual"], ["fusion", "fusion"]]
    assert [result.modality for result in summary.results] == ["audio"] and summary.results[0].retention
    assert "A classifier of events by their sound" in (hearing / "README.md").read_text()
    results = json.loads((hearing / "results.json").read_text())
    assert set(results["results"]) == {"audio"}
    assert set(results["teacher_results"]) == {"both", "audio", "visual"}


def test_the_best_epoch_on_the_validation_split_is_kept(hearing):
    states = [json.loads(path.read_text()) for path in hearing.glob("checkpoint-*/trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])
    accuracies = {line["step"]: line["eval_accuracy"] for line in last["log_history"] if "eval_accuracy" in line}
    assert len(accuracies) == 3 and last["best_metric"] == max(accuracies.values())
    best, kept = (load_file(f"{folder}/model.safetensors") for folder in (last["best_model_checkpoint"], hearing))
    assert best.keys() == kept.keys() and all(torch.equal(best[name], kept[name]) for name in best)


def test_it_is_evaluated_and_asked_about_clips(workplace, hearing, teacher, clips):
    report = workplace.run_here("evaluate.py", "--model", hearing, "--teacher", teacher).results
    assert set(report["results"]) == {"audio"} == set(report["retention"])
    assert report["results"] == json.loads((hearing / "results.json").read_text())["results"]
    answers = workplace.run_here("predict.py", clips[0], "--model", hearing)
    assert answers.status == 0 and "sound only" in answers.out and "picture" not in answers.out
    ended = workplace.run_here("evaluate.py", "--model", hearing, "--modalities", "visual")
    assert ended.status == 1 and "cannot be evaluated with visual, only with audio" in ended.err


def test_a_student_that_sees_learns_from_a_teacher_that_hears(workplace, hearing_teacher, tmp_path):
    options = ["--teacher", hearing_teacher, "--student_modalities", "visual", "--output_dir", tmp_path, *ONE_EPOCH]
    refused = workplace.run_here("distill.py", *options, "--objective", "em_ktd")
    assert refused.status == 1 and "Compare models of different modalities by fd_cmkd and kd" in refused.err
    refused = workplace.run_here("distill.py", *options, "--objective", "kd", "--modalities", "audio")
    assert refused.status == 1 and "cannot be evaluated with audio, only with visual" in refused.err
    results = workplace.run_here("distill.py", *options, "--objective", "kd", "fd_cmkd").results
    assert set(results["results"]) == {"visual"} and set(results["teacher_results"]) == {"audio"}
    assert AutoModel.from_pretrained(tmp_path).config.input_shapes == {"pixel_values": (3, 32, 32)}


def test_a_monitor_of_a_teacher_that_hears(workplace, hearing_teacher, tmp_path):
    options = ["--teacher", hearing_teacher, "--objective", "em_ktd", "--output_dir", tmp_path, *ONE_EPOCH]
    assert workplace.run_here("distill.py", *options).status == 0
    summary = DistillationSummary.load(tmp_path)
    assert set(summary.entropy_statistics) == {"audio", "fusion"} and summary.student.modality == "audio"


def test_weights_may_be_inherited(workplace, teacher, tmp_path):
    options = ["--teacher", teacher, "--student_modalities", "audio", "--objective", "kd", *ONE_EPOCH]
    options += ["--student_init", "inherit", "--output_dir", tmp_path / "student", "--num_train_epochs", "0"]
    assert workplace.run_here("distill.py", *options).status == 0
    own, given = (load_file(folder / "model.safetensors") for folder in (tmp_path / "student", teacher))
    assert torch.equal(own["classifier.dense.weight"], given["classifier.dense.weight"][:, :8])
    wide = ["--student_fields", "hidden_size=64", "num_attention_heads=8"]
    refused = workplace.run_here("distill.py", *options, *wide)
    assert refused.status == 1 and "at most as wide as its teacher" in refused.err
    refused = workplace.run_here("distill.py", *options, "--student", teacher)
    assert refused.status == 2 and "comes with weights of its own" in refused.err


def test_unknown_choices_are_refused(workplace, teacher):
    refused = workplace.run_here("distill.py", "--teacher", teacher, "--student_init", "slices")
    assert refused.status == 2 and "student_init must be scratch or inherit, got 'slices'" in refused.err
    refused = workplace.run_here("distill.py", "--teacher", teacher, "--student_modalities", "sound")
    assert refused.status == 1 and "modalities must name audio, visual or both" in refused.err
