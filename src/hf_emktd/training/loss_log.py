"""Means of named loss parts between two log lines, without a synchronisation per step."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor


class LossLog:
    """Sums detached scalars by name on their device; `pop_means` averages over steps and ranks and starts anew."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, scalar in scalars.items():
            self.sums[name] = self.sums.get(name, 0) + scalar.detach().float()
            self.counts[name] = self.counts.get(name, 0) + 1

    def pop_means(self) -> dict[str, float]:
        """Every rank must call it at the same step: the means are reduced over ranks."""
        if not self.sums:
            return {}
        means = torch.stack([self.sums[name] / self.counts[name] for name in self.sums])
        values = self.accelerator.reduce(means, reduction="mean").tolist()
        names = list(self.sums)
        self.sums, self.counts = {}, {}
        return dict(zip(names, values, strict=True))
