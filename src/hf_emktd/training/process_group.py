"""How a run on several processes begins and ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

# How long a process whose peer is gone waits for the launcher to end it; the launcher looks ten times a second.
PATIENCE_SECONDS = 10.0


def join_on_cpu_without_accelerator() -> None:
    """
    Before anything of accelerate: several processes on a machine without an accelerator are one run over gloo.

    accelerate joins processes on the CPU only when it is told to, by `--use_cpu` or this variable; otherwise every one
    of them would train a model of its own and write it to the same folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def run_launched(main: Callable[[], None]) -> None:
    """
    Runs the `main` of a script that may run under `accelerate launch` or `torchrun`, so that the launcher's report
    names the process that failed first, with its traceback.

    The others only know that a connection is lost, and would bury the reason under what they say of it: they wait,
    and the launcher ends them. Without a launcher they end by themselves a little later.
    """

    @record
    def recorded() -> None:
        try:
            main()
        except RuntimeError as error:
            if _lost_a_peer(error):
                time.sleep(PATIENCE_SECONDS)
            raise

    recorded()


def _lost_a_peer(error: RuntimeError) -> bool:
    # errors of gloo have no class of their own
    return isinstance(error, dist.DistError) or "gloo" in str(error)


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
