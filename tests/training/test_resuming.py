"""Checkpoints of runs that are ended, and what a disk or a clock may do to them. Kills: tests/torture."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import fields

import pytest
from tiny_runs import OFF, make_features, make_trainer, make_views, weights
from transformers import TrainerCallback

from hf_emktd.training import DistillationArguments
from hf_emktd.training.interruption import (
    SAME_SIGNAL_SECONDS,
    CheckpointError,
    Interrupted,
    ResumeError,
    signals_deferred,
)
from hf_emktd.training.resuming import last_checkpoint
from hf_emktd.training.training_clock import training_seconds


class SignalAt(TrainerCallback):
    def __init__(self, step, signum=signal.SIGTERM):
        self.step, self.signum = step, signum

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.signum)


def run(folder, **options):
    """Three epochs of three steps."""
    defaults = {"optim": "adamw_torch", "max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 4}
    defaults |= {"save_strategy": "epoch", "save_total_limit": 1}
    return make_trainer(folder, views=make_views(make_features(count=12), OFF), **(defaults | options))


@pytest.mark.parametrize(
    ("signum", "step"), [(signal.SIGTERM, 2), (signal.SIGINT, 3)], ids=["inside an epoch", "at its end"]
)
def test_a_signal_saves_after_the_step_and_the_run_goes_on(tmp_path, step, signum):
    straight = run(tmp_path / "straight", eval_strategy="epoch")
    straight.train()
    ended = run(tmp_path / "ended", eval_strategy="epoch")
    ended.add_callback(SignalAt(step, signum))
    handlers = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted, match=f"Step {step} of 9 is saved") as interruption:
        ended.train()
    assert interruption.value.signum == signum
    assert [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert last_checkpoint(tmp_path / "ended") == str(tmp_path / "ended" / f"checkpoint-{step}")
    resumed = run(tmp_path / "ended", eval_strategy="epoch")
    resumed.train(resume_from_checkpoint="last")
    assert all((weights(resumed.model)[name] == tensor).all() for name, tensor in weights(straight.model).items())
    evaluated = [
        [line["step"] for line in trainer.state.log_history if "eval_loss" in line] for trainer in (straight, resumed)
    ]
    assert evaluated == [[3, 6, 9]] * 2


def test_the_same_signal_comes_twice_within_two_seconds():
    """A launcher hands Ctrl-C on to processes that the terminal has sent it to already."""
    with signals_deferred() as asked:
        try:
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
        except Interrupted as interruption:  # a KeyboardInterrupt, which would end all tests
            pytest.fail(f"not deferred: {interruption}")
        assert asked.signum == signal.SIGINT


def test_a_second_signal_after_two_seconds_ends_at_once():
    with signals_deferred() as asked, pytest.raises(Interrupted, match=r"^SIGINT\. Nothing was saved\.$"):
        signal.raise_signal(signal.SIGINT)
        time.sleep(SAME_SIGNAL_SECONDS + 0.05)
        assert asked.signum == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("earlier", [1000.0, None], ids=["counted", "of a checkpoint without a clock"])
def test_the_time_of_all_parts_counts(tmp_path, earlier):
    run(tmp_path, num_train_epochs=1).train()
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    content = json.loads(state.read_text())
    clock = content["stateful_callbacks"].pop("TrainingClock")
    assert 0 < clock["attributes"]["earlier"] < 100
    if earlier is not None:
        content["stateful_callbacks"]["TrainingClock"] = {"args": {}, "attributes": {"earlier": earlier}}
    state.write_text(json.dumps(content))
    resumed = run(tmp_path)
    started = time.perf_counter()
    resumed.train(resume_from_checkpoint="last")
    own = training_seconds(resumed.state) - (earlier or 0)
    assert 0 < own < time.perf_counter() - started
    kept = json.loads((tmp_path / "checkpoint-9" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert 0 < kept["TrainingClock"]["attributes"]["earlier"] - (earlier or 0) < own


def test_without_checkpoints_a_signal_ends_at_once(tmp_path):
    trainer = run(tmp_path, save_strategy="no")
    trainer.add_callback(SignalAt(2, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a process of the background
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_state_that_was_written_by_half_is_no_checkpoint(tmp_path):
    run(tmp_path, save_total_limit=None).train()
    state = tmp_path / "checkpoint-9" / "trainer_state.json"
    state.write_text(state.read_text()[:-3])
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-6")
    with pytest.raises(CheckpointError, match=r"saved to its end; the newest such .*checkpoint-6"):
        run(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    resumed = run(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 9 and last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")


@pytest.mark.parametrize("hours", [24, -24])
def test_a_clock_that_is_turned_costs_no_checkpoint(tmp_path, hours):
    run(tmp_path, num_train_epochs=1).train()
    then = time.time() + 3600 * hours
    for path in (tmp_path / "checkpoint-3", *(tmp_path / "checkpoint-3").iterdir()):
        os.utime(path, (then, then))
    run(tmp_path).train(resume_from_checkpoint="last")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-9"]


def test_what_a_killed_process_was_saving_is_not_kept_for_the_newest(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "model.safetensors").write_bytes(b"half")
    run(tmp_path).train(resume_from_checkpoint="last")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-9"]


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((CheckpointError, FileExistsError)):
        run(tmp_path / "file")


def names(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_new_run_keeps_its_own_checkpoints_beside_those_of_an_earlier_one(tmp_path, warnings_of_transformers):
    """`last` would go on with the earlier run's weights, and the rotation delete the new run's."""
    run(tmp_path, save_total_limit=2).train()
    again = run(tmp_path, save_strategy="steps", save_steps=2, learning_rate=0.02)
    again.add_callback(SignalAt(3))
    with pytest.raises(Interrupted, match="Step 3 of 9 is saved"):
        again.train()
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-earlier-6", "checkpoint-earlier-9"]
    warned = warnings_of_transformers.text
    assert "held 2 checkpoint(s)" in warned and "checkpoint-earlier-6, checkpoint-earlier-9" in warned
    resumed = run(tmp_path, learning_rate=0.02)
    resumed.train(resume_from_checkpoint="last")
    straight = run(tmp_path / "straight", learning_rate=0.02)
    straight.train()
    assert all((weights(resumed.model)[name] == tensor).all() for name, tensor in weights(straight.model).items())


def test_no_earlier_checkpoint_is_written_over(tmp_path):
    for _ in range(3):
        run(tmp_path, num_train_epochs=1).train()
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-earlier-3", "checkpoint-earlier-3-2"]


def test_what_came_after_the_resumed_checkpoint_is_put_aside(tmp_path):
    run(tmp_path, save_total_limit=None).train()
    resumed = run(tmp_path, save_strategy="steps", save_steps=4)
    resumed.add_callback(SignalAt(4))
    with pytest.raises(Interrupted):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-earlier-6", "checkpoint-earlier-9"]


def test_an_earlier_run_is_taken_up_under_its_old_names(tmp_path):
    run(tmp_path, num_train_epochs=1).train()
    run(tmp_path, save_strategy="no").train()
    assert names(tmp_path) == ["checkpoint-earlier-3"]
    (tmp_path / "checkpoint-earlier-3").rename(tmp_path / "checkpoint-3")
    run(tmp_path).train(resume_from_checkpoint="last")
    assert names(tmp_path) == ["checkpoint-9"]


def test_other_objectives_than_the_checkpoint_was_trained_with_are_refused(tmp_path):
    """The card would state what trained nothing."""
    run(tmp_path, num_train_epochs=1).train()
    with pytest.raises(ResumeError, match=r"objective \['em_ktd', 'kd'\], now \[\].*Give its options to go on"):
        run(tmp_path, objective=["none"]).train(resume_from_checkpoint="last")
    with pytest.raises(ResumeError, match=r"objective_options \[\], now \['kd\.weight=3'\]; ktd_gamma 0\.5, now 1\.0"):
        changed = {"objective_options": ["kd.weight=3"], "ktd_gamma": 1.0}
        run(tmp_path, **changed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert names(tmp_path) == ["checkpoint-3"]


def test_other_options_of_training_are_warned_of(tmp_path, warnings_of_transformers):
    run(tmp_path, num_train_epochs=1).train()
    run(tmp_path, num_train_epochs=2).train(resume_from_checkpoint="last")
    assert "other options" not in warnings_of_transformers.text
    run(tmp_path, learning_rate=1e-9, seed=7).train(resume_from_checkpoint="last")
    assert "learning_rate 0.05, now 1e-09; seed 42, now 7." in warnings_of_transformers.text


@pytest.mark.parametrize("kept", [{}, {"OptionsOfRun": {"args": {}, "attributes": {}}}])
def test_a_checkpoint_that_knows_no_options_is_resumed(tmp_path, kept):
    run(tmp_path, num_train_epochs=1).train()
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    content = json.loads(state.read_text())
    assert content["stateful_callbacks"]["OptionsOfRun"]["attributes"]["options"]["ktd_weight"] == 30.0
    del content["stateful_callbacks"]["OptionsOfRun"]
    content["stateful_callbacks"] |= kept
    state.write_text(json.dumps(content))
    resumed = run(tmp_path, objective=["kd"])
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.global_step == 9


def test_last_without_a_checkpoint_says_that_it_starts_anew(tmp_path, warnings_of_transformers):
    run(tmp_path, num_train_epochs=1).train(resume_from_checkpoint="last")
    assert f"no checkpoint in {tmp_path} to go on from: the run starts anew" in warnings_of_transformers.text


def test_a_wrong_folder_where_there_is_no_checkpoint_promises_none(tmp_path):
    """Scripts end a CheckpointError with how `last` goes on."""
    with pytest.raises(
        ResumeError, match=r"wrong is no checkpoint .*, and there is none in .*leave resume_from"
    ) as raised:
        run(tmp_path).train(resume_from_checkpoint=str(tmp_path / "wrong"))
    assert not isinstance(raised.value, CheckpointError) and "None" not in str(raised.value)


def test_the_help_of_resuming_tells_of_last():
    options = {option.name: option for option in fields(DistillationArguments)}
    assert "'last' for the newest in output_dir" in options["resume_from_checkpoint"].metadata["help"]
