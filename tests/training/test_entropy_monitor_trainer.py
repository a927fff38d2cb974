"""Probes on pooled tokens: what is pooled, trained and measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import LABELS, make_arguments, make_features, make_model, make_monitor, make_views, weights

from hf_emktd.data import AudioVisualCollator, AugmentationArguments
from hf_emktd.distillation import BRANCHES, EntropyMonitor, LiveTeacher, fingerprint, token_grids
from hf_emktd.training import (
    EMKTDTrainer,
    EntropyMonitorArguments,
    EntropyMonitorTrainer,
    build_objectives,
    find_monitor,
    train_monitor,
)


def monitor_arguments(folder, **options):
    defaults = {"max_steps": -1, "num_train_epochs": 2, "logging_strategy": "no", "per_device_eval_batch_size": 4}
    return make_arguments(folder, EntropyMonitorArguments, **(defaults | options))


@pytest.fixture
def run(tmp_path):
    def make(monitor=None, **options):
        teacher = make_model(seed=1)
        return EntropyMonitorTrainer(
            monitor or make_monitor(teacher),
            LiveTeacher(teacher),
            monitor_arguments(tmp_path, **options),
            train_dataset=make_views(make_features(count=10)),
            eval_dataset=make_views(make_features(count=7, seed=1)),
            data_collator=AudioVisualCollator(),
        )

    return make


def test_pools_the_mean_token_of_each_branch_in_the_order_of_the_clips(run):
    trainer = run()
    batch = AudioVisualCollator()([make_views(make_features(count=10))[clip, 0] for clip in range(10)])
    tokens = LiveTeacher(make_model(seed=1))(**batch).tokens
    *columns, labels = trainer.train_dataset.tensors
    assert trainer.branches == list(BRANCHES)
    for branch, column in zip(BRANCHES, columns, strict=True):
        torch.testing.assert_close(column, tokens[branch].mean(dim=1), rtol=1e-5, atol=1e-6)
    assert labels.tolist() == batch["labels"].tolist()
    assert len(trainer.eval_dataset) == 7


def test_statistics_by_hand(run):
    trainer = run(learning_rate=0.0)
    trainer.train()
    *columns, labels = trainer.eval_dataset.tensors
    for branch, column in zip(BRANCHES, columns, strict=True):
        probabilities = trainer.model.probes[branch](column).softmax(-1).detach().double().numpy()
        entropies = -(probabilities * np.log(probabilities)).sum(-1)
        measured = trainer.model.config.statistics["eval"][branch]
        assert measured["accuracy"] == pytest.approx((probabilities.argmax(-1) == labels.numpy()).mean())
        assert measured["entropy_mean"] == pytest.approx(entropies.mean(), rel=1e-5)
        assert measured["entropy_std"] == pytest.approx(entropies.std(), rel=1e-4)
        assert measured["entropy_quartiles"] == pytest.approx(np.quantile(entropies, [0.25, 0.5, 0.75]).tolist())


def test_learns_what_the_tokens_tell(run):
    trainer = run(num_train_epochs=150, learning_rate=0.1, optim="adamw_torch", lr_scheduler_type="cosine")
    untrained = trainer.statistics(trainer.train_dataset)
    trainer.train()
    statistics = trainer.model.config.statistics
    for branch in BRANCHES:
        assert statistics["train"][branch]["accuracy"] == 1.0 > untrained[branch]["accuracy"]
        assert (
            0 <= statistics["train"][branch]["entropy_mean"] < statistics["eval"][branch]["entropy_mean"] < np.log(3)
        )


def test_accumulated_steps_equal_whole_ones(run):
    whole, split = run(), run(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    for trainer in (whole, split):
        trainer.train_dataset = torch.utils.data.Subset(trainer.train_dataset, range(8))
        super(EntropyMonitorTrainer, trainer).train()
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_evaluates_while_it_trains(run):
    trainer = run(eval_strategy="epoch")
    trainer.train()
    assert [line["eval_loss"] > 0 for line in trainer.state.log_history if "eval_loss" in line] == [True, True]


def test_clips_of_one_sense_are_refused(tmp_path):
    features = make_features(count=4)
    features = features.remove_columns("fbank").add_column("fbank", [None] * 4)
    teacher = make_model(seed=1)
    with pytest.raises(ValueError, match="no audio, fusion tokens: a monitor needs clips with sound and picture"):
        EntropyMonitorTrainer(
            make_monitor(teacher),
            LiveTeacher(teacher),
            monitor_arguments(tmp_path),
            train_dataset=make_views(features),
            eval_dataset=make_views(features),
            data_collator=AudioVisualCollator(),
        )


class TestTrainMonitor:
    def test_is_an_artefact_that_knows_its_teacher(self, tmp_path, data):
        teacher = make_model(seed=1)
        before = weights(teacher)
        monitor = train_monitor(teacher, data, monitor_arguments(tmp_path / "entropy_monitor"), hidden_layers=1)
        loaded = find_monitor(tmp_path)
        assert isinstance(loaded, EntropyMonitor)
        assert loaded.config.teacher_fingerprint == fingerprint(teacher)
        assert loaded.config.hidden_layers == 1
        assert [loaded.config.id2label[index] for index in range(3)] == LABELS
        assert loaded.config.statistics == monitor.config.statistics
        assert set(loaded.config.statistics) == {"train", "eval"}
        LiveTeacher(teacher, loaded)  # fits
        with pytest.raises(ValueError, match="fingerprint"):
            LiveTeacher(make_model(seed=2), loaded)
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())

    def test_measures_on_validation_clips(self, tmp_path, data, monkeypatch):
        asked = []
        plain_views = type(data).plain_views
        monkeypatch.setattr(
            type(data), "plain_views", lambda self, name: asked.append(name) or plain_views(self, name)
        )
        train_monitor(make_model(seed=1), data, monitor_arguments(tmp_path))
        del data.features["validation"]
        train_monitor(make_model(seed=1), data, monitor_arguments(tmp_path))
        assert asked == ["train", "validation", "train", "test"]

    def test_inside_a_run_in_bfloat16(self, tmp_path, data):
        """accelerate keeps one precision a process: the monitor's run takes that of the run it is part of."""
        run = make_arguments(tmp_path, bf16=True, max_steps=1)
        assert run.device.type == "cpu"  # as in distill.py, the run's machine is set up before the monitor's
        teacher = make_model(seed=1)
        monitor = train_monitor(teacher, data, EntropyMonitorArguments.within(run, str(tmp_path / "entropy_monitor")))
        trainer = EMKTDTrainer(
            make_model(),
            run,
            teacher=LiveTeacher(teacher, monitor),
            objectives=build_objectives(run, token_grids(teacher.config)),
            train_dataset=data.train_views(AugmentationArguments.none()),
            data_collator=AudioVisualCollator(),
        )
        trainer.train()
        assert trainer.accelerator.mixed_precision == "bf16"
