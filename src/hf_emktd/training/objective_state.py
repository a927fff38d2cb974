"""Parameters of objectives in a run: optimised, equal on all ranks and saved, but never part of the student."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from transformers import TrainerCallback

from .balance import GradientBalance

OBJECTIVES_FILE = "objectives.safetensors"
SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP)


def check_backend(accelerator: Accelerator, objectives: nn.ModuleList) -> None:
    """
    Raises `ValueError` if objectives have parameters and the backend shards its optimiser: it takes parameters of the
    one model that it prepared.
    """
    learning = [objective.name for objective in objectives if any(True for _ in objective.parameters())]
    if learning and accelerator.distributed_type in SHARDED:
        raise ValueError(
            f"{', '.join(learning)} have parameters of their own, which {accelerator.distributed_type.value} cannot "
            "optimise beside the student. Use DDP, or objectives without parameters (docs/objectives.md)."
        )


class ClearGradients(TrainerCallback):
    """Clears the gradients of objectives after every step: the Trainer clears those of its model only."""

    def __init__(self, objectives: nn.ModuleList) -> None:
        self.objectives = objectives

    def on_step_end(self, args, state, control, **kwargs):
        self.objectives.zero_grad()


def share_gradients(objectives: nn.ModuleList) -> None:
    """Starts all ranks from the first one's tensors and averages every gradient over them, as DDP does."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    for tensor in (*objectives.parameters(), *objectives.buffers()):
        distributed.broadcast(tensor.data, 0)
    for parameter in objectives.parameters():
        parameter.register_post_accumulate_grad_hook(_average_gradient)


def add_to_optimizer(optimizer: torch.optim.Optimizer, objectives: nn.ModuleList) -> None:
    """A group of its own, without weight decay: a projection is no part of what has to generalise."""
    parameters = [parameter for parameter in objectives.parameters() if parameter.requires_grad]
    if parameters:
        optimizer.add_param_group({"params": parameters, "weight_decay": 0.0})


def save_objectives(objectives: nn.ModuleList, folder: str | Path) -> None:
    """Writes parameters and buffers beside the optimiser's state, if any of them came of training."""
    if _learns(objectives):
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in objectives.state_dict().items()}
        save_file(state, Path(folder) / OBJECTIVES_FILE)


def load_objectives(objectives: nn.ModuleList, folder: str | Path) -> None:
    """
    Reads what `save_objectives` wrote.

    Raises:
        ValueError: if the checkpoint is of a run with other objectives.
    """
    path = Path(folder) / OBJECTIVES_FILE
    if not _learns(objectives):
        return
    state: dict[str, Tensor] = load_file(path) if path.is_file() else {}
    own = {name: tensor.shape for name, tensor in objectives.state_dict().items()}
    if own != {name: tensor.shape for name, tensor in state.items()}:
        raise ValueError(
            f"{path} does not hold the parameters of this run's objectives "
            f"({', '.join(objective.name for objective in objectives)}). Resume with the objectives that the run was "
            "started with, or start anew."
        )
    objectives.load_state_dict(state)


def _learns(objectives: nn.ModuleList) -> bool:
    return any(isinstance(module, GradientBalance) or any(True for _ in module.parameters()) for module in objectives)


def _average_gradient(parameter: nn.Parameter) -> None:
    # What earlier steps have accumulated and averaged is equal on all ranks: averaging it again changes nothing.
    distributed.all_reduce(parameter.grad)
    parameter.grad /= distributed.get_world_size()
