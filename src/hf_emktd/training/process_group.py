"""How a run on several processes begins and ends."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def join_on_cpu_without_accelerator() -> None:
    """
    Before anything of accelerate: several processes on a machine without an accelerator are one run over gloo.

    accelerate joins processes on the CPU only when it is told to, by `--use_cpu` or this variable; otherwise every one
    of them would train a model of its own and write it to the same folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def end_process_group() -> None:
    """
    Last line of a script that may run under `accelerate launch` or `torchrun`: waits for the other processes and
    closes the process group; on a single process, nothing.

    A group left open is torn down while the interpreter ends. Its threads may then ask for an interpreter that is
    gone, and a run whose work is done and saved ends with SIGABRT ("terminate called without an active exception").
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
