"""What a run leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_runs import make_arguments, make_model
from transformers import AutoModel, AutoProcessor

from hf_emktd.data import AudioVisualCollator, AugmentationArguments
from hf_emktd.hub import DistillationSummary, ModelFacts
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import (
    AudioVisualTrainer,
    AudioVisualTrainingArguments,
    EvaluationArguments,
    command_line,
    data_facts,
    evaluate_model,
    evaluation_results,
    hyper_parameters,
    save_run,
    to_json,
)


class TestCommandLine:
    @pytest.mark.parametrize(
        "token", [["--hub_token", "hf_secret"], ["--hub_token=hf_secret"], ["--hub-token", "hf_secret"]]
    )
    def test_tells_the_options_but_no_secret(self, monkeypatch, token):
        monkeypatch.chdir(Path(__file__).parent)
        monkeypatch.setattr("sys.argv", ["scripts/distill.py", *token, "--teacher", "a b", "--seed", "1"])
        command = command_line()
        assert "hf_secret" not in command and token[0].partition("=")[0] in command
        assert command.startswith("python scripts/distill.py --hub")
        assert "--teacher 'a b' --seed 1" in command


def test_json_is_strict():
    assert json.loads(to_json({"d_prime": math.inf, "x": torch.tensor(1.5), "nested": [{"y": math.nan}]})) == {
        "d_prime": None,
        "x": 1.5,
        "nested": [{"y": None}],
    }


def test_hyper_parameters_repeat_a_run(tmp_path):
    args = make_arguments(
        tmp_path,
        AudioVisualTrainingArguments,
        head_learning_rate_factor=10.0,
        label_smoothing_factor=0.1,
        seed=7,
        bf16=True,
        gradient_accumulation_steps=4,
    )
    values = hyper_parameters(args, "audio-visual-classification", task_weight=0.5)
    assert values["head_learning_rate_factor"] == 10.0 and values["label_smoothing_factor"] == 0.1
    assert (values["seed"], values["bf16"], values["gradient_accumulation_steps"]) == (7, True, 4)
    assert (values["lr_scheduler_type"], values["processes"], values["task_weight"]) == ("constant", 1, 0.5)
    json.dumps(values)


class TestResults:
    metrics = {name: {"accuracy": 0.5, "clips": 7} for name in ("both", "audio", "visual")}  # noqa: RUF012

    def test_one_frame(self):
        results = evaluation_results("test", EvaluationArguments(scores="softmax"), self.metrics)
        assert [(r.modality, r.frames, r.scores) for r in results] == [
            ("both", 1, "softmax"),
            ("audio", 1, "softmax"),
            ("visual", 1, "softmax"),
        ]

    def test_several_frames_rank_averaged_probabilities(self):
        results = evaluation_results("test", EvaluationArguments(frames=10), self.metrics)
        assert [(r.modality, r.frames, r.scores) for r in results] == [
            ("both", 10, "softmax"),
            ("audio", 1, "logits"),
            ("visual", 10, "softmax"),
        ]

    def test_retention(self):
        (result,) = evaluation_results("test", EvaluationArguments(), {"both": {"accuracy": 0.4}}, self.metrics)
        assert result.retention == {"accuracy": pytest.approx(0.8)}


def test_data_facts(data):
    data.source.report.add("train", "silent", "train0")
    facts = data_facts(data)
    assert (facts.name, facts.classes) == ("clips.csv", 3)
    assert facts.clips == {"train": 12, "validation": 6, "test": 7}
    assert facts.left_out == {"train": {"silent": 1}} and len(facts.manifest_hash) == 64


class TestSaveRun:
    @pytest.fixture
    def finished(self, tmp_path, data):
        trainer = AudioVisualTrainer(
            make_model(),
            make_arguments(tmp_path / "run", AudioVisualTrainingArguments, max_steps=1),
            train_dataset=data.train_views(AugmentationArguments.none()),
            data_collator=AudioVisualCollator(),
        )
        trainer.train()
        metrics = evaluate_model(trainer.model, data, EvaluationArguments())
        summary = DistillationSummary(
            student=ModelFacts.from_model(trainer.model, str(tmp_path / "run"), None),
            data=data_facts(data),
            results=evaluation_results("test", EvaluationArguments(), metrics),
            hyper_parameters=hyper_parameters(trainer.args, "audio-visual-classification"),
        )
        save_run(trainer, data.processor, data, summary, {"results": metrics})
        return trainer, tmp_path / "run", metrics

    def test_is_a_whole_directory(self, finished):
        trainer, folder, metrics = finished
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert torch.equal(model.classifier.dense.weight, trainer.model.classifier.dense.weight)
        assert isinstance(processor, CavMaeProcessor)
        assert (
            json.loads((folder / "results.json").read_text())["results"]["both"]["accuracy"]
            == metrics["both"]["accuracy"]
        )
        assert json.loads((folder / "clips.json").read_text())["found"] == {"train": 12, "validation": 6, "test": 7}
        assert (folder / "README.md").is_file()
        assert json.loads((folder / "trainer_state.json").read_text())["log_history"] == trainer.state.log_history
        assert not list(folder.glob("*.bin"))

    def test_only_the_main_process_writes(self, finished, tmp_path, monkeypatch, data):
        trainer, _, _ = finished
        monkeypatch.setattr(type(trainer.args), "should_save", property(lambda self: False))
        trainer.args.output_dir = str(tmp_path / "rank1")
        save_run(trainer, data.processor, data, DistillationSummary(student=ModelFacts("x", 1, 1, "X")), {})
        assert not (tmp_path / "rank1").exists()
