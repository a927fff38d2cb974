"""Runs on several processes of which the last has a fault; what they found is written as JSON.

torchrun --nproc_per_node 2 tests/training/faulty_ranks_driver.py FOLDER FAULT
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from distributed_driver import checksum
from tiny_runs import OFF, logged, make_features, make_model, make_table, make_trainer, make_views
from transformers import TrainerCallback

from hf_emktd.data import AudioVisualCollator, ClipTable, write_shards
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import DataArguments, EMKTDTrainer, open_clips
from hf_emktd.training.process_group import end_process_group, join_on_cpu_without_accelerator, run_launched

LAST = int(os.environ.get("WORLD_SIZE", "1")) - 1
STEPS = 6


class Fault(TrainerCallback):
    """Happens to the last rank in its third step, and leaves a file that tells when."""

    def __init__(self, file: Path, happen: Callable[[], None]) -> None:
        self.file, self.happen = file, happen

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2 and args.process_index == LAST:
            self.file.touch()
            self.happen()


def throw() -> None:
    raise RuntimeError("this rank has had enough")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class RecordingCollator(AudioVisualCollator):
    """Keeps the names of the clips; with a file, the last rank's third batch has a sound that is no number."""

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.batches, self.names = file, 0, []

    def __call__(self, views):
        batch = super().__call__(views)
        self.batches += 1
        self.names += [view["clip_id"] for view in views]
        if self.file is not None and self.batches == 3 and PartialState().process_index == LAST:
            self.file.touch()
            batch["input_values"][0, 0] = torch.nan
        return batch


def failing(folder: Path, happen: Callable[[], None]) -> EMKTDTrainer:
    trainer = make_trainer(folder, per_device_train_batch_size=2, max_steps=STEPS)
    trainer.add_callback(Fault(folder.with_suffix(".fault"), happen))
    return trainer


def not_finite(folder: Path, action: str) -> EMKTDTrainer:
    collator = RecordingCollator(folder.with_suffix(".fault"))
    options = {"per_device_train_batch_size": 2, "max_steps": STEPS, "non_finite_loss": action}
    return make_trainer(folder, collator=collator, **options)


def uneven(folder: Path) -> EMKTDTrainer:
    """13 clips in batches of 2 on every rank, and relations between the clips of all ranks."""
    views = make_views(make_features(13), OFF, make_model())
    options = {"per_device_train_batch_size": 2, "max_steps": -1, "num_train_epochs": 2}
    options |= {"objective": ["em_clip_ktd", "kd"]}
    return make_trainer(folder, views=views, collator=RecordingCollator(), **options)


def streamed(folder: Path, clips_per_shard: int, corrupt: bool) -> EMKTDTrainer:
    """Of 12 clips in shards of media; the last shard may have two that cannot be read any more."""
    state = PartialState(cpu=True)
    if state.is_main_process:
        folder.mkdir()
        table = ClipTable(make_table(folder))
        index = write_shards(table, folder / "shards", store="media", clips_per_shard=clips_per_shard)
        if corrupt:
            spoil(folder / "shards" / index.splits["train"][-1].file)
    state.wait_for_everyone()
    processor = CavMaeProcessor.from_config(make_model().config)
    data = open_clips(DataArguments(dataset=str(folder / "shards"), streaming=True), processor)
    options = {"per_device_train_batch_size": 3, "max_steps": -1, "num_train_epochs": 2}
    return make_trainer(folder, views=data.train_views(OFF), collator=RecordingCollator(), **options)


def spoil(shard: Path) -> None:
    table = pq.read_table(shard)
    rows = table.to_pylist()
    for row in rows[:2]:
        row["audio"]["bytes"] = b"no sound"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), shard)


RUNS: dict[str, Callable[[Path], EMKTDTrainer]] = {
    "raise": lambda folder: failing(folder, throw),
    "kill": lambda folder: failing(folder, kill),
    "nan": lambda folder: not_finite(folder, "stop"),
    "skip": lambda folder: not_finite(folder, "skip"),
    "uneven": uneven,
    "corrupt": lambda folder: streamed(folder, clips_per_shard=3, corrupt=True),
    "one_shard": lambda folder: streamed(folder, clips_per_shard=12, corrupt=False),
}


def main() -> None:
    join_on_cpu_without_accelerator()
    torch.set_num_threads(1)
    folder, fault = Path(sys.argv[1]), sys.argv[2]
    trainer = RUNS[fault](folder / fault)
    trainer.train()
    names = getattr(trainer.data_collator.collator, "names", [])
    ranks = gather_object([{"checksum": checksum(trainer.model), "clips": names}])
    if trainer.is_world_process_zero():
        (folder / f"{fault}.json").write_text(json.dumps({"log": logged(trainer), "ranks": ranks}))


if __name__ == "__main__":
    run_launched(main)
    end_process_group()
