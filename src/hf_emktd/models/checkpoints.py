"""Reading official checkpoint files, for the converters of all model families."""

import pickle
from pathlib import Path

import torch
from torch import nn


class CheckpointError(ValueError):
    """A file is not an official checkpoint that can be converted, or does not fit what was given with it."""


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """
    State dict of an official file under the official names, without the `module.` that DataParallel put in front.

    Raises:
        [`CheckpointError`]: if it cannot be read as a dict of tensors, without executing code from it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a PyTorch file of tensors: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise CheckpointError(
            f"{path} holds {type(state).__name__} where a non-empty dict of tensors is expected; pass the model's "
            "state dict, not a whole training state."
        )
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def shape_of(state: dict[str, torch.Tensor], key: str, dimensions: int) -> torch.Size:
    """
    Shape of a tensor that sizes are inferred from.

    Raises:
        [`CheckpointError`]: if it has another number of dimensions.
    """
    if state[key].ndim != dimensions:
        raise CheckpointError(f"{key} must have {dimensions} dimensions but has shape {tuple(state[key].shape)}.")
    return state[key].shape


def check_tensors(
    converted: dict[str, torch.Tensor],
    model: nn.Module,
    name: str,
    may_lack: str | None = None,
    source: str = "its other tensors",
) -> list[str]:
    """
    Compares converted tensors with what a model expects.

    Args:
        converted (`dict[str, torch.Tensor]`): Tensors under the model's names.
        model (`nn.Module`): What they are for.
        name (`str`): What to call the model in errors.
        may_lack (`str`, *optional*): Prefix of a part that the checkpoint may lack as a whole.
        source (`str`, *optional*, defaults to `"its other tensors"`): What the model's sizes follow from.

    Returns:
        `list[str]`: names of the tensors of that part, if the checkpoint lacks it.

    Raises:
        [`CheckpointError`]: if anything else is missing, unknown or of another shape.
    """
    expected = model.state_dict()
    unknown, missing = sorted(converted.keys() - expected.keys()), sorted(expected.keys() - converted.keys())
    optional = sorted(key for key in expected if may_lack is not None and key.startswith(may_lack))
    if unknown or missing not in ([], optional):
        raise CheckpointError(
            f"the checkpoint does not fit {name}: {len(missing)} tensors missing ({', '.join(missing[:5])}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:5])})."
        )
    for key, tensor in converted.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{key} has shape {tuple(tensor.shape)} in the checkpoint, but {tuple(expected[key].shape)} follows "
                f"from {source}."
            )
    return missing


__all__ = ["CheckpointError", "check_tensors", "read_checkpoint", "shape_of"]
