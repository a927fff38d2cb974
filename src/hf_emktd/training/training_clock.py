"""How long a run has trained, also one that was ended and went on."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class TrainingClock(TrainerCallback, ExportableState):
    """
    Counts seconds and keeps them in the Trainer's state, and so in checkpoints: of a resumed run the time of all its
    parts counts, of each as far as the checkpoint that the next one went on from.
    """

    def __init__(self) -> None:
        self.earlier = 0.0
        self.started: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # a checkpoint of other callbacks has no time; the Trainer saves only what the state has a place for
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.earlier, self.started = kept["attributes"]["earlier"], time.perf_counter()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        state.stateful_callbacks[type(self).__name__] = self.state()
        self.started = None

    def state(self) -> dict[str, Any]:
        running = 0.0 if self.started is None else time.perf_counter() - self.started
        return {"args": {}, "attributes": {"earlier": self.earlier + running}}


def training_seconds(state: TrainerState) -> float:
    """Of a run that has ended."""
    return state.stateful_callbacks[TrainingClock.__name__]["attributes"]["earlier"]
