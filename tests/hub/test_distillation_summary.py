from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification
from hf_emktd.distillation.objectives import LogitDistillation
from hf_emktd.hub import DistillationSummary, EvaluationResult, ModelFacts, ObjectiveFacts, hub_id_of
from hf_emktd.metrics import count_macs, count_parameters


def test_survives_the_file(summary, tmp_path):
    summary.save(tmp_path)
    assert DistillationSummary.load(tmp_path) == summary
    assert [path.name for path in tmp_path.iterdir()] == ["distillation.json"]


def test_the_file_is_strict_json(summary, tmp_path):
    summary.hyper_parameters = {
        "rate": np.float32(0.5),
        "bound": math.inf,
        "path": tmp_path,
        "nested": {"steps": (1, 2)},
    }
    values = json.loads(summary.save(tmp_path).read_text(), parse_constant=pytest.fail)
    assert values["hyper_parameters"] == {
        "rate": 0.5,
        "bound": None,
        "path": str(tmp_path),
        "nested": {"steps": [1, 2]},
    }


def test_undefined_metrics_are_left_out():
    result = EvaluationResult("test", {"accuracy": 1.0, "mAUC": math.nan, "d_prime": math.inf})
    assert result.metrics == {"accuracy": 1.0}


def test_retention_is_student_over_teacher():
    result = EvaluationResult(
        "test", {"accuracy": 0.62, "mAP": 0.5, "clips": 9}, {"accuracy": 0.639, "mAP": 0.0, "clips": 9}
    )
    assert result.retention == {"accuracy": pytest.approx(0.62 / 0.639)}


def test_a_control_retains_nothing():
    for modality in ("swapped_sound", "silence"):
        assert EvaluationResult("test", {"MJ": 0.4}, {"MJ": 0.5}, modality).retention == {}
    assert EvaluationResult("test", {"MJ": 0.4}, {"MJ": 0.5}).retention == {"MJ": pytest.approx(0.8)}


def test_update_replaces_the_same_and_keeps_the_teacher(summary):
    summary.update_results(
        EvaluationResult("test", {"accuracy": 0.7}), EvaluationResult("test", {"accuracy": 0.5}, modality="audio")
    )
    same, other = summary.results
    assert same.metrics == {"accuracy": 0.7}
    assert same.teacher_metrics["accuracy"] == 0.639
    assert other.modality == "audio" and other.teacher_metrics == {}


def test_facts_of_a_model(model):
    facts = ModelFacts.from_model(model, "org/student")
    assert facts.parameters == count_parameters(model)
    assert facts.macs == count_macs(model) > 0
    assert facts.architecture == "CavMaeForAudioVisualClassification"
    assert facts.hub_id == facts.title == "org/student"
    assert facts.visual_parameters is None and facts.modality is None


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_facts_of_a_model_of_one_modality(model, modality):
    one = CavMaeForAudioVisualClassification(CavMaeConfig(**model.config.to_dict() | {"modalities": [modality]}))
    facts = ModelFacts.from_model(one, "org/student")
    assert facts.modality == modality
    assert facts.parameters == count_parameters(one) < count_parameters(model)
    assert 0 < facts.macs == count_macs(one) < count_macs(model)


def test_facts_of_a_model_with_a_picture_encoder_of_its_own(segmenter):
    facts = ModelFacts.from_model(segmenter, "org/student")
    assert facts.visual_parameters == count_parameters(segmenter.avsegformer.visual_encoder) < facts.parameters
    assert facts.macs == count_macs(segmenter) > 0


def test_facts_of_an_objective():
    facts = ObjectiveFacts.from_objective(LogitDistillation(temperature=2.0))
    assert facts.name == "LogitDistillation"
    assert facts.settings["temperature"] == 2.0
    assert facts.citation.lstrip().startswith("@")


def test_a_local_path_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    assert hub_id_of("org/teacher") == "org/teacher"
    assert [hub_id_of(name) for name in ("runs/teacher", str(tmp_path), "tiny", "a/b/c", "../teacher")] == [None] * 5


def test_a_card_does_not_show_where_a_model_lay():
    assert ModelFacts("/home/someone/runs/teacher", 1).title == "teacher"


def test_a_file_without_a_task_is_a_classifier_s(summary, mask_summary, tmp_path):
    values = summary.to_dict()
    assert values.pop("task") == "audio-visual-classification"
    del values["student"]["visual_parameters"]
    assert DistillationSummary.from_dict(values) == summary
    mask_summary.save(tmp_path)
    assert DistillationSummary.load(tmp_path) == mask_summary


def test_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task must be one of"):
        DistillationSummary(ModelFacts("a", 1), task="segmentation")


def test_unknown_modality_is_refused():
    with pytest.raises(ValueError, match="modality must be one of"):
        EvaluationResult("test", {}, modality="video")


@pytest.mark.parametrize(
    "values", [{}, {"student": {"name": "a"}}, {"student": {"name": "a", "parameters": 1}, "speed": 3}]
)
def test_a_foreign_file_is_refused(tmp_path, values):
    (tmp_path / "distillation.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="not a distillation summary"):
        DistillationSummary.load(tmp_path)


def test_a_directory_without_summary_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_for_hub"):
        DistillationSummary.load(tmp_path)
