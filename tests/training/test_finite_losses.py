"""Losses that are not finite: the clips are named and the run ends, or their batch leaves no trace in it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from tiny_runs import (
    logged,
    make_arguments,
    make_features,
    make_model,
    make_monitor,
    make_teacher,
    make_trainer,
    make_views,
    weights,
)

from hf_emktd.data import AudioVisualCollator
from hf_emktd.distillation import LiveTeacher
from hf_emktd.distillation.objectives import DistillationObjective
from hf_emktd.training import EntropyMonitorArguments, EntropyMonitorTrainer
from hf_emktd.training.finite_losses import LONGEST_ROW, FiniteLosses, check_skipping


def with_broken(*names: str, value: float = np.nan, count: int = 16) -> Dataset:
    """Features of which some clips' sound has one value that is no number."""
    features = make_features(count)
    rows = [row | ({"fbank": broken(row["fbank"], value)} if row["clip_id"] in names else {}) for row in features]
    return Dataset.from_list(rows, features.features)


def broken(fbank: bytes, value: float) -> bytes:
    values = np.frombuffer(fbank, np.float16).copy()
    values[100] = value
    return values.tobytes()


def run(folder, *names, value=np.nan, **options):
    return make_trainer(folder, views=make_views(with_broken(*names, value=value)), **options)


def all_finite(model) -> bool:
    return all(tensor.isfinite().all() for tensor in model.state_dict().values())


class TestStop:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_names_the_clip_before_the_weights_are_touched(self, tmp_path, value):
        trainer = run(tmp_path, "clip5", value=value, per_device_train_batch_size=4, max_steps=4)
        with pytest.raises(
            FloatingPointError,
            match=r"loss_task .*of step \d is NaN or infinite, and the teacher's answer to 'clip5' is and the "
            r"student's answer to 'clip5' is\. Look at .*--non_finite_loss skip",
        ):
            trainer.train()
        assert all_finite(trainer.model) and trainer.state.global_step < 4

    def test_tells_a_teacher_that_has_no_finite_answer(self, tmp_path):
        teacher = make_teacher()
        teacher.model.classifier.dense.weight.data.fill_(torch.inf)
        with pytest.raises(FloatingPointError, match=r"^loss_kd of step 1 .*, and the teacher's answer to 'clip"):
            make_trainer(tmp_path, teacher=teacher).train()

    def test_a_gradient_that_is_not_finite_ends_the_run_too(self, tmp_path):
        trainer = make_trainer(tmp_path, objectives=[RootOfNothing()])
        before = weights(trainer.model)
        with pytest.raises(FloatingPointError, match=r"^the gradient of step 1 .*; the batch holds 'clip"):
            trainer.train()
        assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())

    def test_calibration_names_the_clip(self, tmp_path):
        trainer = run(tmp_path, "clip5", ktd_scale="teacher_spread")
        with pytest.raises(FloatingPointError, match=r"in calibration the teacher's answer is .* 1 clips .*'clip5'"):
            trainer.train()

    def test_evaluation_names_the_clip(self, tmp_path):
        trainer = make_trainer(tmp_path)
        with pytest.raises(FloatingPointError, match=r"the model's answer is NaN or infinite for 1 clips .*'clip2'"):
            trainer.evaluate(make_views(with_broken("clip2", count=7)))


class RootOfNothing(DistillationObjective):
    """Its value is 0, its slope infinite."""

    name = "root"

    def forward(self, student_output, teacher_signal, labels=None):
        return {self.name: (student_output.logits.sum() * 0).sqrt()}

    def to_dict(self):
        return {"name": self.name}


class TestSkip:
    def test_only_the_batch_is_left_out_of_the_gradient(self, tmp_path):
        """Two batches make a step; of the one without the broken clip, half of its gradient is the step's."""
        good = []

        class Collator(AudioVisualCollator):
            def __call__(self, views):
                batch = super().__call__(views)
                good.extend([batch] if "clip5" not in {view["clip_id"] for view in views} else [])
                return batch

        options = {"gradient_accumulation_steps": 2, "max_steps": 1, "max_grad_norm": 0.0, "weight_decay": 0.0}
        trainer = run(tmp_path, "clip5", collator=Collator(), non_finite_loss="skip", **options)
        expected = make_model()
        trainer.train()
        parts, _, _ = trainer.loss_parts(expected.train(), *good)
        sum(parts.values()).backward()
        for name, parameter in expected.named_parameters():
            moved = parameter if parameter.grad is None else parameter - 0.05 * parameter.grad / 2
            torch.testing.assert_close(trainer.model.get_parameter(name), moved, msg=name)

    def test_counts_and_names_and_goes_on(self, tmp_path, warnings_of_transformers):
        trainer = run(tmp_path, "clip5", non_finite_loss="skip", per_device_train_batch_size=4, max_steps=8)
        trainer.train()
        assert [line["skipped_batches"] for line in logged(trainer)][-1] == 2
        assert sum("'clip5' is: the batch is skipped" in text for text in warnings_of_transformers.messages) == 2
        assert all(np.isfinite(value) for line in logged(trainer) for value in line.values())
        assert all_finite(trainer.model)

    @pytest.mark.parametrize(
        "options",
        [
            {"objective": ["clip_ktd", "vkd"]},
            {"balance": "gradient", "balance_steps": 3},
            {"ktd_scale": "teacher_spread", "per_device_train_batch_size": 5},
        ],
        ids=["objectives_that_learn", "balance", "calibration"],
    )
    def test_nothing_is_spoilt(self, tmp_path, options):
        options = {"per_device_train_batch_size": 4, "max_steps": 8} | options
        trainer = run(tmp_path, "clip5", "clip7", non_finite_loss="skip", **options)
        trainer.train()
        assert 0 < logged(trainer)[-1]["skipped_batches"] < 8
        assert all_finite(trainer.model) and all_finite(trainer.balance)
        assert all(parameter.isfinite().all() for parameter in trainer.objectives.parameters())

    def test_a_finite_loss_whose_gradient_is_not_ends_the_run(self, tmp_path):
        with pytest.raises(FloatingPointError, match="the gradient of step 1"):
            make_trainer(tmp_path, objectives=[RootOfNothing()], non_finite_loss="skip").train()

    def test_nothing_but_skipped_batches_ends_the_run(self):
        losses = FiniteLosses("skip")
        with pytest.raises(FloatingPointError, match=f"{LONGEST_ROW} batches one after the other were skipped"):
            for step in range(LONGEST_ROW + 1):
                losses.checked({"task": torch.tensor(torch.nan)}, ["clip"], step)
        assert losses.skipped == LONGEST_ROW

    def test_one_good_batch_ends_a_row_of_skipped_ones(self):
        losses = FiniteLosses("skip")
        row = [torch.nan] * (LONGEST_ROW - 1)
        for step, loss in enumerate([*row, 1.0, *row]):
            losses.checked({"task": torch.tensor(loss)}, ["clip"], step)
        assert losses.skipped == 2 * (LONGEST_ROW - 1)

    def test_shards_of_a_gradient_cannot_be_masked(self):
        accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
        check_skipping("stop", accelerator)
        with pytest.raises(ValueError, match="cannot take one rank's batch out of gradients that FSDP shards"):
            check_skipping("skip", accelerator)


class TestLooking:
    """What is done for an accelerator, which has to be waited for."""

    def test_is_put_off_and_tells_the_batch_that_it_was(self):
        losses = FiniteLosses("stop", at_once=10)
        for step, loss in enumerate([1.0, torch.nan, 2.0]):
            losses.watch("student", torch.tensor([[1.0], [loss]]))
            losses.checked({"task": torch.tensor(1.0), "kd": torch.tensor(loss)}, [f"a{step}", f"b{step}"], step)
        with pytest.raises(FloatingPointError, match=r"^loss_kd of step 2 is .* the student's answer to 'b1' is"):
            losses.look()
        losses.look()

    @pytest.mark.parametrize("action", ["stop", "skip"])
    def test_is_the_only_thing_that_reads_from_the_device(self, action):
        """Tensors without values cannot be read: whatever waited for the accelerator would fail here."""
        losses, empty = FiniteLosses(action, at_once=10), torch.ones(2, 3, device="meta")
        for step in range(3):
            losses.watch("student", empty)
            losses.checked({"task": empty.sum(), "kd": empty.mean()}, ["a", "b"], step)
            losses.watch_gradients([empty, empty])
        with pytest.raises((NotImplementedError, RuntimeError)):
            losses.look()

    def test_tells_clips_without_names_by_place(self):
        losses = FiniteLosses("stop")
        losses.watch("student", torch.tensor([[1.0], [torch.nan]]))
        with pytest.raises(FloatingPointError, match="the student's answer to number 1 is"):
            losses.checked({"task": torch.tensor(torch.nan)}, None, 0)

    def test_comes_by_itself_in_the_end(self):
        losses = FiniteLosses("stop", at_once=3)
        losses.checked({"task": torch.tensor(torch.nan)}, ["clip"], 0)
        losses.checked({"task": torch.tensor(1.0)}, ["clip"], 1)
        with pytest.raises(FloatingPointError, match="of step 1"):
            losses.checked({"task": torch.tensor(1.0)}, ["clip"], 2)

    @pytest.mark.parametrize(
        "options",
        [
            {"save_strategy": "steps", "save_steps": 2},
            {"logging_steps": 2},
            {"eval_strategy": "steps", "eval_steps": 2},
        ],
        ids=["saving", "logging", "evaluating"],
    )
    def test_comes_before_anything_is_written_down(self, tmp_path, options):
        options = {"logging_steps": 100, "per_device_train_batch_size": 4, "max_steps": 50} | options
        trainer = run(tmp_path, *(f"clip{index}" for index in range(16)), **options)
        trainer.finite_losses.at_once = 1000
        with pytest.raises(FloatingPointError, match="of step 1 is NaN"):
            trainer.train()
        assert trainer.state.global_step == 2 and not trainer.state.log_history
        assert not list(tmp_path.glob("checkpoint-*"))


class TestMonitor:
    def make(self, folder, **options) -> EntropyMonitorTrainer:
        teacher = make_model(seed=1)
        return EntropyMonitorTrainer(
            make_monitor(teacher),
            LiveTeacher(teacher),
            make_arguments(folder, EntropyMonitorArguments, per_device_eval_batch_size=4, **options),
            train_dataset=make_views(with_broken("clip3", count=9)),
            eval_dataset=make_views(make_features(5)),
            data_collator=AudioVisualCollator(),
        )

    def test_names_the_clip(self, tmp_path):
        with pytest.raises(FloatingPointError, match=r"the teacher's tokens are NaN .* 1 clips .*'clip3'"):
            self.make(tmp_path)

    def test_leaves_the_clip_out(self, tmp_path, warnings_of_transformers):
        trainer = self.make(tmp_path, non_finite_loss="skip")
        assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (8, 5)
        assert "'clip3'" in warnings_of_transformers.text
        trainer.train()
        assert all_finite(trainer.model)
