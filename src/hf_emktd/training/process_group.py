"""How a run on several processes ends."""

from __future__ import annotations

import torch.distributed as dist


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
