"""A student that starts from slices of its teacher's weights instead of from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2SelfAttention

from ..models.cav_mae.modeling_cav_mae import CavMaeAttention
from .families import family_of

SCRATCH, INHERIT = STUDENT_INITS = ("scratch", "inherit")

# By the class of an attention layer: its projections whose outputs run head by head, each with the number of parts
# (query, key, value) that it holds one after the other, and those whose inputs do.
HEAD_OUTPUTS = {CavMaeAttention: {"qkv": 3}, PvtV2SelfAttention: {"query": 1, "key": 1, "value": 1}}
HEAD_INPUTS = {CavMaeAttention: ("output",), PvtV2SelfAttention: ("proj",)}


def inherit_weights(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """
    Overwrites all weights of a student with slices of its teacher's: TinyCLIP's manual inheritance (Wu et al., 2023,
    https://huggingface.co/papers/2309.12314; official file `src/open_clip/weight_inherit.py`).

    Of each stack of layers every (teacher's depth // student's depth)-th is taken, from the first; of each axis of a
    tensor the first entries; of attention the first heads and of each the first channels. TinyCLIP's models have heads
    of one width, as CAV-MAE of width 768 and 192 have (64); those of PVTv2-b5 and b0 differ (64 and 32). A narrower
    student keeps the first channels of the residual stream and so does not compute what its teacher does.

    Position embeddings of another grid: those of the picture are resampled bicubically, since a smaller picture shows
    the same; those of sound are cut, since a shorter spectrogram is the beginning of the long one. TinyCLIP cuts.

    The EM-KTD paper trains its students from scratch.

    Args:
        student: changed in place; of the teacher's family, with no modality that the teacher lacks.
        teacher: in any precision.

    Raises:
        ValueError: if the student is larger than its teacher in any size, or differs from it in one that cannot be
            sliced.
    """
    student.load_state_dict(inherited_state(student, teacher))


def check_inheritance(config: PreTrainedConfig, teacher: PreTrainedModel) -> None:
    """Raises `ValueError` where [`inherit_weights`] would, for a student of `config`, without building it."""
    _check_configs(config, teacher.config)
    with torch.device("meta"):
        student = AutoModel.from_config(config)
    inherited_state(student, teacher)


@torch.no_grad()
def inherited_state(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict that [`inherit_weights`] loads; of the student only shapes are read. Errors as there."""
    _check_configs(student.config, teacher.config)
    return {name: _slice_for(name, student, teacher) for name in student.state_dict()}


def front(tensor: Tensor, factors: Sequence[Sequence[int]], kept: Sequence[Sequence[int]]) -> Tensor:
    """
    The first entries of a tensor. Each axis is seen as the product of its `factors`, such as (3, heads, width) of a
    fused projection; of each factor the first `kept` entries stay.
    """
    view = tensor.reshape([size for axis in factors for size in axis])
    sliced = view[tuple(slice(size) for axis in kept for size in axis)]
    return sliced.reshape([math.prod(axis) for axis in kept])


def resample_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings `(1, rows * columns, width)` of a picture for a grid of another size, bicubically."""
    image = positions.float().transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False, antialias=True)
    return resized.flatten(2).transpose(1, 2).to(positions.dtype)


def cut_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings `(1, rows * columns, width)` of the first rows and columns."""
    rows, columns = new_grid
    return positions.unflatten(1, grid)[:, :rows, :columns].flatten(1, 2)


def _slice_for(name: str, student: PreTrainedModel, teacher: PreTrainedModel) -> Tensor:
    given_name = _counterpart(name, student, teacher)
    own, given = _tensor(student, name), _tensor(teacher, given_name)
    if name.endswith("position_embeddings"):
        given = _on_grid_of(student, teacher, name)
    kept, factors = _axes(student, name, own), _axes(teacher, given_name, given)
    if any(new > old for sizes in zip(factors, kept, strict=True) for old, new in zip(*sizes, strict=True)):
        raise ValueError(
            f"{name} is {kept} in the student and {factors} in the teacher. A student that inherits weights is at "
            "most as wide as its teacher in every part, with at most as many heads; or let it start from scratch."
        )
    return front(given, factors, kept)


def _on_grid_of(student: PreTrainedModel, teacher: PreTrainedModel, name: str) -> Tensor:
    """The teacher's position embeddings on the student's grid."""
    positions, place = _tensor(teacher, name), name.rpartition(".")[0]
    grid, new_grid = (model.get_submodule(place).grid for model in (teacher, student))
    if grid == new_grid:
        return positions
    return (cut_positions if "audio_embeddings" in name else resample_positions)(positions, grid, new_grid)


def _counterpart(name: str, student: nn.Module, teacher: nn.Module) -> str:
    """Name of the teacher's tensor whose slice the student's is; of layers every (depth // depth)-th."""
    own, given, words = student, teacher, []
    for word in name.split("."):
        if isinstance(own, nn.ModuleList):
            if len(own) > len(given):
                raise ValueError(f"{name}: the student has {len(own)} layers there, the teacher only {len(given)}.")
            words.append(str(int(word) * (len(given) // len(own))))
        else:
            words.append(word)
        if not hasattr(given, words[-1]):
            raise ValueError(f"the teacher has no {name}; a student that inherits has its teacher's modalities only.")
        own, given = getattr(own, word), getattr(given, words[-1])
    return ".".join(words)


def _axes(model: nn.Module, name: str, tensor: Tensor) -> list[tuple[int, ...]]:
    """Each axis of a tensor as the product of what it runs over."""
    place, _, kind = name.rpartition(".")
    owner, _, layer = place.rpartition(".")
    attention = model.get_submodule(owner)
    axes = [(size,) for size in tensor.shape]
    if parts := HEAD_OUTPUTS.get(type(attention), {}).get(layer):
        heads = attention.num_attention_heads
        axes[0] = (parts, heads, tensor.shape[0] // (parts * heads))
    if kind == "weight" and layer in HEAD_INPUTS.get(type(attention), ()):
        axes[1] = (attention.num_attention_heads, tensor.shape[1] // attention.num_attention_heads)
    return axes


def _tensor(model: nn.Module, name: str) -> Tensor:
    place, _, kind = name.rpartition(".")
    return getattr(model.get_submodule(place), kind)


def _check_configs(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    if student.model_type != teacher.model_type:
        raise ValueError(f"a {student.model_type} cannot inherit the weights of a {teacher.model_type}.")
    unsliced_sizes = family_of(teacher).unsliced_sizes
    if unsliced_sizes is None:
        raise ValueError(
            f"weights of an {teacher.model_type} cannot be sliced: how its encoders lay out their heads is theirs. "
            "Let the student start from scratch, or from encoders of its own size."
        )
    for name in unsliced_sizes:
        own, given = (np.ravel(getattr(config, name)).tolist() for config in (student, teacher))
        if own != given:
            raise ValueError(
                f"a student inherits weights from a teacher of the same {name}, but has {own} and not {given}: that "
                "decides how tensors are laid out. Give both the same, or let the student start from scratch."
            )
