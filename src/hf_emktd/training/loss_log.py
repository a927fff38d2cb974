"""Means of named loss parts between two log lines, without a synchronisation per step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from accelerate.utils import gather_object
from torch import Tensor


class LossLog:
    """
    Sums detached scalars by name on their device until `pop_means`.

    The means are over optimiser steps and ranks. A part that a step did not have counts as 0 there, so that the means
    of all parts add up to the logged loss; the mean of a branch weight is over the steps that had the branch.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.steps = 0.0
        self.sums: dict[str, Tensor] = {}
        self.shares: Counter[str] = Counter()

    def add(self, parts: Mapping[str, Tensor], branch_weights: Mapping[str, Tensor], share: float = 1.0) -> None:
        """
        Args:
            parts: named scalars that the loss of one batch is the sum of.
            branch_weights: by branch, the weights of the batch's clips, `(batch,)`.
            share: what the batch counts of an optimiser step: 1 / accumulation steps.
        """
        self.steps += share
        scalars = {f"loss_{name}": part for name, part in parts.items()}
        scalars |= {f"weight_{branch}": weights.mean() for branch, weights in branch_weights.items()}
        for name, scalar in scalars.items():
            self.sums[name] = self.sums.get(name, 0.0) + share * scalar.detach().float()
            self.shares[name] += share

    def pop_means(self) -> dict[str, float]:
        """
        `{"loss_<part>": ..., "weight_<branch>": ...}`, and a fresh start. Every rank must call it; ranks may differ in
        the names they had.
        """
        own = {name: (total.item(), self.shares[name]) for name, total in self.sums.items()}
        ranks = gather_object([(self.steps, own)])
        self.reset()
        steps, totals, shares = 0.0, Counter(), Counter()
        for rank_steps, scalars in ranks:
            steps += rank_steps
            for name, (total, share) in scalars.items():
                totals[name] += total
                shares[name] += share
        return {name: total / (steps if name.startswith("loss_") else shares[name]) for name, total in totals.items()}
