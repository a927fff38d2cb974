"""The ready-made configs of accelerate: each is understood, says what it is for, and the one for CPUs runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from hf_emktd.training.process_group import join_on_cpu_without_accelerator

CONFIGS = Path(__file__).parents[2] / "scripts" / "accelerate_configs"
EXPECTED = {
    "single_gpu": ("NO", 1, "bf16"),
    "ddp_8gpu": ("MULTI_GPU", 8, "bf16"),
    "fsdp2": ("FSDP", 8, "bf16"),
    "deepspeed_zero2": ("DEEPSPEED", 8, "bf16"),
    "deepspeed_zero3": ("DEEPSPEED", 8, "bf16"),
    "cpu_2": ("MULTI_GPU", 2, "no"),
}


def test_there_are_no_others():
    assert {path.stem for path in CONFIGS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_understands_it(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    kind, processes, precision = EXPECTED[name]
    assert (config.distributed_type.value, config.num_processes, config.mixed_precision) == (
        kind,
        processes,
        precision,
    )


def launched(name: str):
    """What `accelerate launch` makes of a config."""
    arguments = ["--config_file", str(CONFIGS / f"{name}.yaml"), "script.py"]
    return _validate_launch_command(launch_command_parser().parse_args(arguments))[0]


def test_fsdp_is_the_second_version_and_keeps_whole_weights():
    environment = prepare_multi_gpu_env(launched("fsdp2"))
    assert environment["ACCELERATE_USE_FSDP"] == "true" and environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    assert environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_has_the_stage_of_its_name(stage):
    args = launched(f"deepspeed_zero{stage}")
    assert args.use_deepspeed and args.zero_stage == stage


@pytest.mark.parametrize(
    ("processes", "has_accelerator", "expected"), [("2", False, "true"), ("1", False, None), ("2", True, None)]
)
def test_processes_on_a_machine_without_an_accelerator_are_one_run(monkeypatch, processes, has_accelerator, expected):
    monkeypatch.setenv("WORLD_SIZE", processes)
    # set first, so that it is put back whatever the function does
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_accelerator)
    join_on_cpu_without_accelerator()
    assert os.environ.get("ACCELERATE_USE_CPU") == expected
