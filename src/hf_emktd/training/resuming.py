"""Training that can be ended at any moment and goes on: whole checkpoints, in an order that no clock can turn."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    HubStrategy,
    SaveStrategy,
    TrainOutput,
    rotate_checkpoints,
)
from transformers.utils import logging

from .arguments import AudioVisualTrainingArguments, DistillationArguments
from .checkpoint_push import CheckpointPushes
from .interruption import CheckpointError, Deferred, Interrupted, ResumeError, signals_deferred
from .training_clock import TrainingClock

logger = logging.get_logger(__name__)

LAST = "last"
# of another run: neither `last` nor the Trainer takes a name without a number for a checkpoint to go on from
EARLIER = f"{PREFIX_CHECKPOINT_DIR}-earlier"
# Options that the card states as what trained the student: another value would be one that trained nothing.
_COMMON = {option.name for option in fields(AudioVisualTrainingArguments)}
OF_OBJECTIVES = tuple(option.name for option in fields(DistillationArguments) if option.name not in _COMMON)
# Options that a run may go on without, with a reason.
OF_TRAINING = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "data_seed",
    "balanced_sampling",
    "modality_dropout",
    "head_learning_rate_factor",
    "freeze",
    "freeze_epochs",
)
# in what torch.save raises for a file that it cannot write
TORCH_WRITER = ("inline_container", "iostream error")


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that was saved to its end, `None` before its first."""
    whole = [folder for folder in _checkpoints(output_dir) if is_whole(folder)]
    return str(max(whole, key=_step_of)) if whole else None


def is_whole(checkpoint: str | Path) -> bool:
    """Whether a checkpoint was saved to its end: the Trainer's state is the last file that is written."""
    try:
        json.loads(Path(checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _checkpoints(output_dir: str | Path) -> list[Path]:
    return [folder for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _step_of(folder) is not None]


def _step_of(checkpoint: Path) -> int | None:
    step = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(step) if step.isdecimal() else None


def _not_before(resumed: str | None, output_dir: str | Path) -> list[Path]:
    """The whole checkpoints that are no part of the run that led to `resumed`, oldest first."""
    whole = sorted((folder for folder in _checkpoints(output_dir) if is_whole(folder)), key=_step_of)
    own = [folder for folder in whole if resumed and folder.samefile(resumed)]
    return [folder for folder in whole if not own or _step_of(folder) > _step_of(own[0])]


def _put_aside(checkpoint: Path) -> Path:
    name, number = f"{EARLIER}-{_step_of(checkpoint)}", 1
    aside = checkpoint.with_name(name)
    while aside.exists():
        number += 1
        aside = checkpoint.with_name(f"{name}-{number}")
    return checkpoint.rename(aside)


class ResumableTrainer(Trainer):
    """
    A [`~transformers.Trainer`] of which a kill at any moment costs no more than what came after its last checkpoint.

    SIGTERM and Ctrl-C end training after the step at hand with a checkpoint, on all ranks after the same one, by
    [`Interrupted`]; with `save_strategy="no"` at once, as ever. Checkpoints are deleted by their step, not by their
    time, so a clock that was set back costs none. Those of an earlier run in the same folder are renamed to
    `checkpoint-earlier-*` when a run starts anew, and those that came later than the one that is resumed: `last` would
    go on from them, and the newly written would be deleted for them.

    Raises:
        CheckpointError: if `output_dir` cannot be written to, before anything is computed, or a checkpoint cannot.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stop_on_signal = StopOnSignal()
        self.pushes = CheckpointPushes()
        self.add_callback(self.stop_on_signal)
        self.add_callback(TrainingClock())
        self.add_callback(OptionsOfRun())
        if self.args.should_save:
            _check_writable(self.args.output_dir)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """As [`Trainer.train`]; `resume_from_checkpoint="last"`, or `True`, takes the newest if there is one.

        Raises:
            CheckpointError: if the checkpoint is none, or was not saved to its end, or a new one cannot be saved.
            ResumeError: if it is none and there is no other either, or was trained with other objectives, or other
                options of theirs.
            Interrupted: after a signal.
        """
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        if checkpoint:
            self._check_options(checkpoint)
        self._put_earlier_aside(checkpoint)
        if self.args.save_strategy == SaveStrategy.NO:
            return super().train(resume_from_checkpoint=checkpoint, **kwargs)
        with signals_deferred() as asked:
            self.stop_on_signal.asked = asked
            return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def _checkpoint_to_resume(self, asked: str | bool | None) -> str | None:
        newest = last_checkpoint(self.args.output_dir)
        if asked in (LAST, True):
            if newest is None and self.is_world_process_zero():
                logger.warning(f"There is no checkpoint in {self.args.output_dir} to go on from: the run starts anew.")
            return newest
        if asked and not is_whole(asked):
            wrong = f"{asked} is no checkpoint that was saved to its end"
            if newest is None:  # not a CheckpointError: scripts promise with it that `last` goes on
                raise ResumeError(
                    f"{wrong}, and there is none in {self.args.output_dir}: name the folder of one, checkpoint-STEP, "
                    "or leave resume_from_checkpoint out to start anew."
                )
            raise CheckpointError(f"{wrong}; the newest such in {self.args.output_dir} is {newest}.")
        return asked or None

    def _check_options(self, checkpoint: str) -> None:
        kept = _kept_options(checkpoint)
        different = {
            name: f"{name} {kept[name]!r}, now {value!r}"
            for name, value in options_of(self.args).items()
            if name in kept and kept[name] != value
        }
        refused = [said for name, said in different.items() if name in OF_OBJECTIVES]
        if refused:
            raise ResumeError(
                f"{checkpoint} was trained with other objectives: {'; '.join(refused)}. Give its options to go on "
                "from it, or name another output_dir and do not resume, to train anew."
            )
        if different and self.is_world_process_zero():
            said = "; ".join(different.values())
            logger.warning(f"{checkpoint} was trained with other options, the run goes on with those of now: {said}.")

    def _put_earlier_aside(self, resumed: str | None) -> None:
        """What this run does not go on from is kept, under names that are not taken for its own."""
        if self.args.should_save:
            names = [_put_aside(folder).name for folder in _not_before(resumed, self.args.output_dir)]
            if names:
                logger.warning(
                    f"{self.args.output_dir} held {len(names)} checkpoint(s) that this run does not go on from; they "
                    f"are now {', '.join(names)}. Delete them, or to go on from them end this run, take 'earlier-' "
                    "out of their names and resume from the last."
                )
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial=trial))
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # the Trainer deletes by time of change
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                _remove_unfinished(run)
                Path(checkpoint, TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not any(part in str(error) for part in TORCH_WRITER):
                raise
            shutil.rmtree(checkpoint, ignore_errors=True)
            reason, free = str(error).splitlines()[0], shutil.disk_usage(run).free
            raise CheckpointError(
                f"{checkpoint} could not be saved ({reason}); {free:,} bytes are free there. The newest whole one "
                f"is {last_checkpoint(run)}."
            ) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(str(run), limit, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            self.pushes.start(self.args, checkpoint_folder, self.hub_model_id)

    def _finish_current_push(self) -> None:
        self.pushes.finish()

    def _save_rng_state(self, output_dir: str) -> None:
        """The last that every rank writes: what makes the checkpoint whole is written after all of them."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


class OptionsOfRun(TrainerCallback, ExportableState):
    """
    Keeps what the student is trained with in the Trainer's state, and so in checkpoints, as JSON: `training_args.bin`
    is a pickle and not read.
    """

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.options = options_of(args)
        # the Trainer saves only what the state has a place for
        state.stateful_callbacks[type(self).__name__] = self.state()

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"options": self.options}}


class StopOnSignal(TrainerCallback):
    """
    Ends training with a checkpoint once a signal was asked for on any rank.

    Attributes:
        asked: of [`signals_deferred`].
    """

    def __init__(self) -> None:
        self.asked = Deferred()
        self.signum = 0
        self.is_saving = False
        self.group: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.signum, self.is_saving = 0, False
        # on the CPU: to ask an accelerator in every step would wait for it
        self.group = distributed.new_group(backend="gloo") if args.world_size > 1 else None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.signum = self._of_all_ranks()
        # what belongs to the end of an epoch, such as an evaluation, is still done there
        if self.signum and not float(state.epoch).is_integer():
            control.should_save = self.is_saving = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.signum:
            control.should_save = self.is_saving = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.is_saving:
            raise Interrupted(self.signum, f"Step {state.global_step} of {state.max_steps} is saved.")

    def _of_all_ranks(self) -> int:
        signum = torch.tensor(int(self.asked.signum))
        if self.group is not None:
            distributed.all_reduce(signum, distributed.ReduceOp.MAX, group=self.group)
        return int(signum)


def options_of(args: TrainingArguments) -> dict[str, Any]:
    """What a run is trained with, but for its length, as it is read back from JSON."""
    known = args.to_dict()
    return json.loads(json.dumps({name: known[name] for name in (*OF_OBJECTIVES, *OF_TRAINING) if name in known}))


def _kept_options(checkpoint: str) -> dict[str, Any]:
    """Empty of a checkpoint that knows none, as of other trainers."""
    state = json.loads(Path(checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    kept = state.get("stateful_callbacks", {}).get(OptionsOfRun.__name__, {})
    return kept.get("attributes", {}).get("options", {})


def _check_writable(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written to ({error}): name another folder.") from error


def _remove_unfinished(run: Path) -> None:
    """What killed processes were saving: it would count as the newest checkpoint when old ones are deleted."""
    for checkpoint in _checkpoints(run):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
