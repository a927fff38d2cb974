"""Learned lower bounds of mutual information, on clips that the learner has not seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from .estimate import Estimate, bootstrapped
from .reduction import principal_components

FOLDS = 3
# Share of a fold's training clips that decide when to stop.
VALIDATION_SHARE = 0.2
COMPONENTS = 16
HIDDEN, EMBEDDING = 128, 32
BATCH, LEARNING_RATE, WEIGHT_DECAY = 256, 2e-3, 1e-2
EPOCHS, PATIENCE = 200, 15


def held_out_information(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Estimate:
    r"""
    A lower bound of I(first; second) of two sets of vectors `(clips, width)`: InfoNCE (van den Oord et al., 2018) with
    a learned critic, on clips that it was not trained on. The critic is fitted three times, each time without a third
    of the clips, which then are each other's counterexamples.

    The bound cannot exceed the logarithm of a third of the clips, [`ceiling`], and lies far below the truth wherever
    the truth is near it. A critic starts at 0 nats and stops training when clips set aside gain no more, so that it
    finds nothing, rather than less, where nothing is shared.

    Vectors are given to the critic as their first 16 principal components: of 1,000 clips of a small model more of
    them, or fewer, gave lower bounds.

    Args:
        seed: of the folds, the weights and the bootstrap.
    """
    first, second = (
        torch.tensor(principal_components(side, COMPONENTS), dtype=torch.float32) for side in (first, second)
    )
    return _cross_fitted(PairCritic, first, second, seed)


def held_out_label_information(vectors: np.ndarray, labels: np.ndarray, seed: int = 0) -> Estimate:
    r"""
    A lower bound of I(vectors; labels) of vectors `(clips, width)` and classes int `(clips,)`: \\(H(Y)\\) minus the
    cross entropy of a learned probe, on clips that it was not trained on. The folds are those of
    [`held_out_information`], the probe one hidden layer beside a linear one.
    """
    vectors = torch.tensor(principal_components(vectors, COMPONENTS), dtype=torch.float32)
    _, labels = np.unique(labels, return_inverse=True)
    return _cross_fitted(LabelProbe, vectors, torch.from_numpy(labels), seed)


def ceiling(clips: int) -> float:
    """The most nats that [`held_out_information`] can give."""
    return math.log(-(-clips // FOLDS))


class Bound(nn.Module, ABC):
    """
    Something fitted to pairs `(clips, ...)`, whose mean contribution in nats is a lower bound of what they share.
    Untrained, every contribution is 0.
    """

    @abstractmethod
    def contributions(self, first: Tensor, second: Tensor) -> Tensor:
        """`(clips,)`."""


class PairCritic(Bound):
    r"""
    \\(f(x, y) = \langle g(x), h(y) \rangle + b(y) + c(x)\\), where \\(g\\) and \\(h\\) are a linear map plus a hidden
    layer each: it can become the log density ratio of joint Gaussians, a product plus a quadratic form of each side.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        widths = (first.shape[1], second.shape[1])
        self.embeddings = nn.ModuleList(LinearAndHidden(width, EMBEDDING) for width in widths)
        self.offsets = nn.ModuleList(LinearAndHidden(width, 1).at_zero() for width in widths)
        self.embeddings[1].at_zero()

    def contributions(self, first: Tensor, second: Tensor) -> Tensor:
        """Mean of both directions: which `second` belongs to a `first`, and which `first` to a `second`."""
        embedded = [embed(side) for embed, side in zip(self.embeddings, (first, second), strict=True)]
        offsets = [offset(side) for offset, side in zip(self.offsets, (first, second), strict=True)]
        scores = embedded[0] @ embedded[1].T + offsets[0] + offsets[1].T
        among = (scores.logsumexp(dim=1) + scores.logsumexp(dim=0)) / 2
        return scores.diagonal() - among + math.log(len(scores))


class LabelProbe(Bound):
    """Log probability that a probe gives the label, minus that of its class at large."""

    def __init__(self, vectors: Tensor, labels: Tensor) -> None:
        super().__init__()
        counts = torch.bincount(labels)
        self.logits = LinearAndHidden(vectors.shape[1], len(counts)).at_zero()
        self.register_buffer("prior", (counts / counts.sum()).log())

    def contributions(self, first: Tensor, second: Tensor) -> Tensor:
        told = (self.prior + self.logits(first)).log_softmax(dim=-1)
        return told.gather(1, second[:, None]).squeeze(1) - self.prior[second]


class LinearAndHidden(nn.Module):
    """A linear map plus one with a hidden layer."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.hidden = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, outputs))

    def at_zero(self) -> LinearAndHidden:
        """Itself, with an output of 0 for every input."""
        for layer in (self.linear, self.hidden[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return self

    def forward(self, vectors: Tensor) -> Tensor:
        return self.linear(vectors) + self.hidden(vectors)


def _cross_fitted(kind: type[Bound], first: Tensor, second: Tensor, seed: int) -> Estimate:
    if len(first) != len(second):
        raise ValueError(f"both sides must be of the same clips, got {len(first)} and {len(second)}.")
    generator = torch.Generator().manual_seed(seed)
    folds = torch.randperm(len(first), generator=generator).chunk(FOLDS)
    parts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fold in range(FOLDS):
            seen = torch.cat(folds[:fold] + folds[fold + 1 :])
            # of all clips: a class may be missing from a fold
            bound = kind(first, second)
            _fit(bound, first[seen], second[seen])
            with torch.inference_mode():
                parts.append(bound.contributions(first[folds[fold]], second[folds[fold]]))
    return bootstrapped(torch.cat(parts).double().numpy(), seed=seed)


def _fit(bound: Bound, first: Tensor, second: Tensor) -> None:
    """Until the validation clips have not improved for some epochs; leaves the best weights."""
    optimizer = torch.optim.AdamW(bound.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    validation, training = torch.arange(len(first)).tensor_split([int(VALIDATION_SHARE * len(first))])
    best, weights, waited = 0.0, deepcopy(bound.state_dict()), 0
    for _ in range(EPOCHS):
        for batch in _batches(training):
            optimizer.zero_grad()
            (-bound.contributions(first[batch], second[batch]).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            value = bound.contributions(first[validation], second[validation]).mean().item()
        waited += 1
        if value > best:
            best, weights, waited = value, deepcopy(bound.state_dict()), 0
        if waited == PATIENCE:
            break
    bound.load_state_dict(weights)


def _batches(indices: Tensor) -> tuple[Tensor, ...]:
    """Random ones of nearly equal size: a critic learns nothing from a batch of one."""
    shuffled = indices[torch.randperm(len(indices))]
    return shuffled.tensor_split(max(1, round(len(indices) / BATCH)))
