"""The clips of all ranks, for objectives that relate clips with one another."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather


def gathered(tensor: Tensor) -> Tensor:
    """
    `(batch, ...)` of every rank, one after the other along the first axis: `(ranks * batch, ...)`. Gradients flow back
    to the rank that a row came from. Without a process group it is the tensor itself.

    A loss on gathered rows is the same on every rank, and so is its gradient on any row; averaging gradients over
    ranks, as DDP does, would then count each only once in `ranks`. The backward pass of `all_gather` sums over ranks,
    which makes up for it.

    Raises:
        ValueError: if ranks hold batches of different sizes; set `dataloader_drop_last`.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return tensor
    _check_sizes(tensor)
    return torch.cat(all_gather(tensor.contiguous()))


def _check_sizes(tensor: Tensor) -> None:
    own = torch.tensor([len(tensor)], device=tensor.device)
    sizes = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, own)
    counts = torch.cat(sizes).tolist()
    if len(set(counts)) > 1:
        raise ValueError(
            f"the ranks hold batches of {counts} clips, but relations between clips need equal ones. Set "
            "dataloader_drop_last=True."
        )
