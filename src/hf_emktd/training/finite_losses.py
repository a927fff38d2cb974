"""Losses and gradients that are not finite: noticed without waiting for the accelerator, with their clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.utils import logging

from .arguments import NON_FINITE_LOSS
from .objective_state import SHARDED

STOP, SKIP = NON_FINITE_LOSS
# So many skipped one after the other mean that nothing is learnt any more.
LONGEST_ROW = 100
NAMED_CLIPS = 10

logger = logging.get_logger(__name__)


def finite_clips(tensors: Iterable[Tensor]) -> Tensor:
    """Of which clips all of `tensors`, each `(batch, ...)`, is finite: bool `(batch,)`."""
    return torch.stack([tensor.detach().flatten(1).isfinite().all(dim=1) for tensor in tensors]).all(dim=0)


def name_clips(places: Sequence[int], clip_ids: Sequence[str] | None) -> str:
    """The clips at `places` of a batch, for a message: by name, or by place where names are not known."""
    known = [f"number {place}" if clip_ids is None else repr(clip_ids[place]) for place in places]
    more = f" and {len(known) - NAMED_CLIPS} more" if len(known) > NAMED_CLIPS else ""
    return ", ".join(known[:NAMED_CLIPS]) + more


def check_finite(what: str, tensors: Iterable[Tensor], clip_ids: Sequence[str] | None) -> None:
    """Raises `FloatingPointError` with the names of clips of which `tensors`, each `(batch, ...)`, are not finite."""
    bad = (~finite_clips(tensors)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(
            f"{what} NaN or infinite for {len(bad)} clips of a batch: {name_clips(bad, clip_ids)}. Look at these "
            "clips' sound and pictures; if all clips are named, at the model's weights."
        )


@dataclass
class _Seen:
    """Flags that say what of a batch is finite: each scalar, and by role the answer to each clip, bool `(batch,)`."""

    step: int
    clip_ids: Sequence[str] | None
    scalars: dict[str, Tensor]
    answers: dict[str, Tensor] = field(default_factory=dict)

    def flags(self) -> list[Tensor]:
        return [*self.scalars.values(), *self.answers.values()]

    def fault(self, values: Iterator[bool]) -> str | None:
        """What is wrong with the batch, whose flags are the next of `values`."""
        scalars = [name for name in self.scalars if not next(values)]
        answers = {
            role: [place for place in range(len(flags)) if not next(values)] for role, flags in self.answers.items()
        }
        if not scalars:
            return None
        where = [f"the {role}'s answer to {self._named(places)} is" for role, places in answers.items() if places]
        told = f", and {' and '.join(where)}" if where else f"; the batch holds {self._named()}"
        return f"{' and '.join(scalars)} of step {self.step + 1} is NaN or infinite{told}"

    def _named(self, places: Sequence[int] | None = None) -> str:
        if places is None:
            places = range(len(next(iter(self.answers.values()), self.clip_ids or ())))
        return name_clips(places, self.clip_ids)


class FiniteLosses:
    """
    Looks after the losses of a run: one that is not finite ends it, or its batch is left out.

    An accelerator has to be waited for to learn what a batch was like, so there batches are looked at together: before
    a log line, an evaluation or a checkpoint, and every 64 of them. On a processor each is, before its gradient.

    Args:
        action: `"stop"` raises; `"skip"` gives the batch no gradient, on the rank that had it alone, warns and counts.
        at_once: how many batches are looked at together at most.

    Attributes:
        skipped: batches left out on this rank.
    """

    def __init__(self, action: str, at_once: int = 1) -> None:
        self.action, self.at_once = action, at_once
        self.reset()

    def reset(self) -> None:
        self.skipped = self._in_a_row = 0
        self._seen: list[_Seen] = []
        self._answers: dict[str, Tensor] = {}
        self._batch = _Seen(0, None, {})
        self._is_finite: Tensor | None = None

    def watch(self, role: str, logits: Tensor) -> None:
        """Keeps to which clips of the batch at hand `role`, student or teacher, has a finite answer `(batch, ...)`."""
        self._answers[role] = finite_clips([logits])

    def checked(self, parts: Mapping[str, Tensor], clip_ids: Sequence[str] | None, step: int) -> dict[str, Tensor]:
        """
        The named scalars that the loss of a batch is the sum of; all 0 where the batch is skipped.

        Raises:
            FloatingPointError: if the loss of a batch that was not looked at yet is not finite and ends the run.
        """
        finite = {f"loss_{name}": part.detach().isfinite() for name, part in parts.items()}
        self._batch = _Seen(step, clip_ids, finite, self._answers)
        self._answers = {}
        self._is_finite = torch.stack(list(finite.values())).all()
        self._add(self._batch)
        return dict(parts) if self.action == STOP else {name: self.kept(part) for name, part in parts.items()}

    def kept(self, tensor: Tensor) -> Tensor:
        """`tensor`, or zeros of its shape if the loss of the batch at hand is not finite."""
        return torch.where(self._is_finite, tensor, 0)

    def mask_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """
        Lets every gradient of `parameters` pass through `kept` before it is added to others: 0 times NaN is NaN, so a
        loss of 0 would not do.
        """
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_hook(self.kept)

    def watch_gradients(self, gradients: Iterable[Tensor]) -> None:
        """
        Keeps whether the gradients of a step are finite; one that is not spoils the weights, and with them all that
        follows.

        Raises:
            FloatingPointError: as `checked`.
        """
        local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
        if local:
            finite = {"the gradient": torch.nn.utils.get_total_norm(local).isfinite()}
            self._add(_Seen(self._batch.step, self._batch.clip_ids, finite))

    def look(self) -> None:
        """
        Waits for the accelerator, and deals with the batches that have not been looked at.

        Raises:
            FloatingPointError: as `checked`.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        values = iter(torch.cat([flag.reshape(-1) for batch in seen for flag in batch.flags()]).tolist())
        for batch in seen:
            self._deal_with(batch.fault(values), can_skip="the gradient" not in batch.scalars)

    def _add(self, seen: _Seen) -> None:
        self._seen.append(seen)
        if len(self._seen) >= self.at_once:
            self.look()

    def _deal_with(self, fault: str | None, can_skip: bool) -> None:
        if fault is None:
            self._in_a_row = 0 if can_skip else self._in_a_row
            return
        if self.action == STOP or not can_skip:
            raise FloatingPointError(
                f"{fault}. Look at the sound and the pictures of these clips, then at the learning rate; if all clips "
                "are named, the weights may be no numbers any more. --non_finite_loss skip leaves such batches out."
            )
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        logger.warning(f"{fault}: the batch is skipped.")
        if self._in_a_row == LONGEST_ROW:
            raise FloatingPointError(f"{LONGEST_ROW} batches one after the other were skipped; of the last, {fault}.")


class LookAfterLosses(TrainerCallback):
    """Has gradients watched, and losses looked at before anything is written down that they might have spoilt."""

    def __init__(self, losses: FiniteLosses, accelerator: Accelerator) -> None:
        self.losses, self.accelerator = losses, accelerator

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        # a scaler meets infinite gradients as it should, and leaves the step out by itself
        if self.accelerator.scaler is None:
            self.losses.watch_gradients(p.grad for p in model.parameters() if p.grad is not None)

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log or control.should_evaluate or control.should_save:
            self.losses.look()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.losses.look()


def check_skipping(action: str, accelerator: Accelerator) -> None:
    """Raises `ValueError` if batches are to be skipped and the backend shards gradients before they can be masked."""
    if action == SKIP and accelerator.distributed_type in SHARDED:
        raise ValueError(
            f"non_finite_loss={SKIP!r} cannot take one rank's batch out of gradients that "
            f"{accelerator.distributed_type.value} shards. Use {STOP!r}, or DDP."
        )
