"""One rule for the weights of all objectives: how hard each pulls at the student's tokens, in units of the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, distributed, nn


class GradientBalance(nn.Module):
    """
    Weights objectives so that each one's gradient on the student's tokens is `share` times as long as that of the task
    loss. Not given in the paper, whose fixed weights (333, 666, 12) belong to its widths and amount of data.

    Lengths are measured during the first steps of training and then kept: a weight that followed them to the end would
    fade out together with the task loss of a student that has learnt its training labels. An objective's own `weight`
    cancels out.

    Args:
        names: of the objectives.
        share: 1.0 pulls as hard as the labels.
    """

    name = "balance"

    def __init__(self, names: Sequence[str], share: float = 1.0) -> None:
        super().__init__()
        self.names = list(names)
        self.share = share
        # summed lengths of the task's gradient and of every objective's: only their ratios are used
        self.register_buffer("lengths", torch.zeros(1 + len(self.names)))
        self.is_checked = False

    def measure(self, task_loss: Tensor, losses: Mapping[str, Tensor], tokens: Sequence[Tensor]) -> None:
        """
        Adds the gradients of one batch, over all ranks; nothing, if a loss of one of them is not finite.

        Args:
            task_loss: scalar.
            losses: scalar of each objective by name.
            tokens: of the student, those that have a gradient.

        Raises:
            ValueError: if on the first batch a loss does not depend on any token, or its gradient is not finite.
        """
        given = [task_loss, *(losses[name] for name in self.names)]
        is_bad = ~torch.stack([loss.detach().float() for loss in given]).isfinite().all()
        measured = torch.stack([*(_gradient_length(loss, tokens) for loss in given), is_bad])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(measured)
        *lengths, is_bad = measured
        self.lengths += torch.where(is_bad > 0, 0, torch.stack(lengths)).to(self.lengths)
        if not self.is_checked and not is_bad:
            self._check()

    def _check(self) -> None:
        """On the first batch with finite losses alone: looking at values waits for the accelerator."""
        names = zip(["the task loss", *self.names], self.lengths.tolist(), strict=True)
        deaf = [name for name, length in names if not 0 < length < math.inf]
        if deaf:
            raise ValueError(
                f"the gradient of {', '.join(deaf)} on the student's tokens is zero or not finite, so it cannot be "
                "balanced. Use balance='none' and set weights."
            )
        self.is_checked = True

    def factors(self) -> dict[str, Tensor]:
        """By objective, what its parts are multiplied with."""
        return dict(zip(self.names, self.share * self.lengths[0] / self.lengths[1:], strict=True))


def _gradient_length(loss: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(loss, list(tokens), retain_graph=True, allow_unused=True)
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), device=loss.device)
