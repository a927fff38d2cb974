"""Runs on both processes of accelerate_configs/cpu_2.yaml; each run of `RUNS` writes what it found as JSON.

accelerate launch --config_file scripts/accelerate_configs/cpu_2.yaml tests/training/distributed_driver.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import tiny_scenes
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from tiny_runs import (
    OFF,
    logged,
    make_arguments,
    make_features,
    make_model,
    make_monitor,
    make_table,
    make_teacher,
    make_trainer,
    make_views,
)
from transformers import TrainerCallback

from hf_emktd.data import AudioVisualCollator, AugmentationArguments, ClipTable, write_shards
from hf_emktd.distillation import BRANCHES, LiveTeacher
from hf_emktd.metrics import compute_event_metrics
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import (
    ClipData,
    DataArguments,
    EntropyMonitorArguments,
    EntropyMonitorTrainer,
    EvaluationArguments,
    evaluate_model,
    open_clips,
)
from hf_emktd.training.prepare import prepare_frozen
from hf_emktd.training.process_group import end_process_group, join_on_cpu_without_accelerator

GLOBAL_BATCH = 8


def batch_size() -> int:
    """Clips per process, so that any number of processes shares the same batch."""
    return GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1"))


def checksum(model) -> float:
    """Changes with every weight; equal models have equal ones."""
    return sum((index + 1) * tensor.double().sum().item() for index, tensor in enumerate(model.state_dict().values()))


def distil(folder: Path, augmentation: AugmentationArguments = OFF, **options) -> dict:
    """Logged losses of a run on 16 clips, two steps an epoch, and what every rank has in the end."""
    views = make_views(make_features(), augmentation)
    trainer = make_trainer(folder, views=views, per_device_train_batch_size=batch_size(), max_steps=4, **options)
    inputs = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(sorted(set(kwargs) - {"output_tokens"})), with_kwargs=True
    )
    trainer.train()
    return {
        "processes": trainer.args.world_size,
        "log": logged(trainer),
        "ranks": gather_object([{"checksum": checksum(trainer.model), "inputs": inputs}]),
    }


def augmented(folder: Path) -> dict:
    return distil(folder, AugmentationArguments(), ktd_scale="teacher_spread", ktd_weight=1.0)


def modality_dropout(folder: Path) -> dict:
    return distil(folder, modality_dropout=0.7)


def checkpointed(folder: Path) -> dict:
    """Activations made anew in the backward pass, while steps differ in the parameters they use."""
    return distil(folder, modality_dropout=0.7, gradient_checkpointing=True)


def across_clips(folder: Path) -> dict:
    """Relations between the clips of both ranks, and a projection that both must learn alike."""
    return distil(folder, objective=["em_clip_ktd", "spkd", "vkd", "kd"])


def masks(folder: Path) -> dict:
    """Logged losses of a run on 8 scenes with masks, and the metrics of 3 others, which ranks cannot share evenly."""
    trainer = tiny_scenes.make_trainer(folder, per_device_train_batch_size=batch_size(), max_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    names = ("eval_MJ", "eval_MF", "eval_clips")
    return {"log": logged(trainer), "ranks": gather_object([{name: metrics[name] for name in names}])}


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


def resumed(folder: Path) -> dict:
    """Stopped in the middle of the second epoch, and taken up from the checkpoint of step 3."""
    options = {"save_strategy": "steps", "save_steps": 3, "balanced_sampling": True, "modality_dropout": 0.3}
    options |= {"per_device_train_batch_size": batch_size(), "max_steps": 4}
    for callback, resume in ((Stop, None), (None, "last")):
        trainer = make_trainer(folder, views=make_views(make_features(), AugmentationArguments()), **options)
        if callback is not None:
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=resume)
    return {"log": logged(trainer), "checksum": checksum(trainer.model)}


def straight(folder: Path) -> dict:
    """What `resumed` must equal."""
    result = distil(folder, AugmentationArguments(), balanced_sampling=True, modality_dropout=0.3)
    return {"log": result["log"], "checksum": result["ranks"][0]["checksum"]}


def streamed(folder: Path) -> dict:
    """The clips that every rank draws from four shards of three in an epoch, and what it has learnt from them."""
    state = PartialState(cpu=True)
    processor = CavMaeProcessor.from_config(make_model().config)
    if state.is_main_process:
        folder.mkdir()
        write_shards(ClipTable(make_table(folder)), folder / "shards", processor, clips_per_shard=3)
    state.wait_for_everyone()
    data = open_clips(DataArguments(dataset=str(folder / "shards"), streaming=True), processor)
    drawn = []

    class Collator(AudioVisualCollator):
        def __call__(self, views):
            drawn.extend(view["clip_id"] for view in views)
            return super().__call__(views)

    options = {"per_device_train_batch_size": 3, "max_steps": -1, "num_train_epochs": 1}
    trainer = make_trainer(folder, views=data.train_views(OFF), collator=Collator(), **options)
    trainer.train()
    steps = trainer.state.global_step
    return {"ranks": gather_object([{"clips": drawn, "steps": steps, "checksum": checksum(trainer.model)}])}


def evaluation(folder: Path) -> dict:
    """Metrics of 7 clips, which two processes cannot share evenly, seen by every rank."""
    trainer = make_trainer(folder, per_device_eval_batch_size=2)
    trainer.compute_metrics = compute_event_metrics
    metrics = trainer.evaluate()
    names = ("eval_accuracy", "eval_mAP", "eval_mAUC")
    return {"ranks": gather_object([{name: metrics[name] for name in names}])}


def evaluate_data(folder: Path) -> dict:
    """`evaluate_model` on the 7 test clips of a table, whose features the main process extracts."""
    state = PartialState(cpu=True)
    datasets.config.HF_DATASETS_CACHE = folder
    with state.main_process_first():
        table = folder / "clips.csv"
        if state.is_main_process:
            folder.mkdir()
            make_table(folder)
        data = ClipData(DataArguments(dataset=str(table)), CavMaeProcessor.from_config(make_model().config))
    metrics = evaluate_model(make_model(seed=5), data, EvaluationArguments(batch_size=2))
    names = ("accuracy", "mAP", "mAUC", "clips")
    return {"ranks": gather_object([{sense: [metrics[sense][name] for name in names] for sense in metrics}])}


def monitor(folder: Path) -> dict:
    """Statistics over 7 + 5 clips of a monitor that is not changed by its training."""
    teacher = make_model(seed=1)
    args = make_arguments(
        folder, EntropyMonitorArguments, learning_rate=0.0, per_device_eval_batch_size=2, logging_strategy="no"
    )
    trainer = EntropyMonitorTrainer(
        make_monitor(teacher),
        LiveTeacher(teacher),
        args,
        train_dataset=make_views(make_features(count=7)),
        eval_dataset=make_views(make_features(count=5, seed=1)),
        data_collator=AudioVisualCollator(),
    )
    trainer.train()
    clips = [len(trainer.train_dataset), len(trainer.eval_dataset)]
    labels = trainer.train_dataset.tensors[-1].tolist()
    return {
        "ranks": gather_object([{"clips": clips, "labels": labels, "statistics": trainer.model.config.statistics}])
    }


def sharded(folder: Path) -> dict:
    """
    A teacher sharded by FSDP2 and what it says of one batch.

    accelerate reaches FSDP on accelerators only and trains by DDP on CPUs, so its state is set by hand here.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap"
    )
    whole, teacher = make_teacher(), prepare_frozen(accelerator, make_teacher())
    kinds = {type(parameter).__name__ for parameter in teacher.model.parameters()}
    local = sum(parameter.to_local().numel() for parameter in teacher.model.parameters())
    batch = AudioVisualCollator()([make_views(make_features())[clip, 0] for clip in range(4)])
    expected, signal = whole(**batch), teacher(**batch)
    difference = max((signal.tokens[branch] - expected.tokens[branch]).abs().max().item() for branch in BRANCHES)
    result = {
        "kinds": sorted(kinds),
        "share": local / whole.model.num_parameters(),
        "requires_grad": any(parameter.requires_grad for parameter in teacher.parameters()),
        "difference": difference,
        "entropy_difference": max(
            (signal.entropies[branch] - expected.entropies[branch]).abs().max().item() for branch in BRANCHES
        ),
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    return result


RUNS: dict[str, Callable[[Path], dict]] = {
    "distil": distil,
    "augmented": augmented,
    "modality_dropout": modality_dropout,
    "checkpointed": checkpointed,
    "across_clips": across_clips,
    "masks": masks,
    "resumed": resumed,
    "straight": straight,
    "streamed": streamed,
    "evaluation": evaluation,
    "evaluate_data": evaluate_data,
    "monitor": monitor,
    "sharded": sharded,
}


def main() -> None:
    join_on_cpu_without_accelerator()
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(RUNS)
    torch.set_num_threads(1)
    for name in names:
        result = RUNS[name](folder / name)
        if int(os.environ["RANK"]) == 0:
            (folder / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
    end_process_group()
