"""Parts of a model that are not trained, or not yet."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, TrainerCallback

from .students import part_of

LATE_PART = "visual_encoder"


def freeze_parts(model: PreTrainedModel, parts: Sequence[str]) -> None:
    """
    Takes parts of a model, named as in its config's `freezable_parts`, out of training.

    Raises:
        ValueError: if the model has no such part.
    """
    for part in parts:
        part_of(model, part).requires_grad_(False)


class FreezeParts(TrainerCallback):
    """
    Leaves the visual encoder as it is for the first `epochs` epochs.

    Its gradients are dropped before each step instead of switched off: DDP decides once, at the start, which
    parameters have gradients.

    Raises:
        ValueError: if the model has no visual encoder that can be told from the rest.
    """

    def __init__(self, model: PreTrainedModel, epochs: int) -> None:
        self.parameters = list(part_of(model, LATE_PART).parameters())
        self.epochs = epochs

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.epoch < self.epochs:
            for parameter in self.parameters:
                parameter.grad = None
