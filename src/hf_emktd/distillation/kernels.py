"""Kernels between unit-length tokens, in float32 or more."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KERNELS = ("linear", "polynomial", "rbf")

# A shorter token has no direction worth comparing, and the gradient of its direction would grow as 1 / length.
SHORTEST_TOKEN = 1e-6


@dataclass(frozen=True)
class TokenKernel:
    r"""
    Kernel between unit-length tokens, a function of their cosine alone. Gram matrices are float32 even under autocast;
    float64 tokens stay float64.

    With unit tokens \\(\|z_i - z_j\|^2 = 2 (1 - \cos_{ij})\\), so the RBF kernel is an exponential of the linear Gram
    matrix and costs no second matrix product. Whether the paper normalises tokens before the polynomial and the RBF
    kernel is not given in the paper; we do for all three, so that token length and width play no part.

    Args:
        name (`str`, *optional*, defaults to `"rbf"`):
            `"linear"`: \\(\cos\\); `"polynomial"`: \\((\cos + c)^d\\); `"rbf"`: \\(\exp(2 \gamma (\cos - 1))\\).
        gamma (`float`, *optional*, defaults to 0.5):
            Of the RBF kernel. The paper reports 2 and 0.5, the better one.
        constant (`float`, *optional*, defaults to 1.0):
            \\(c\\) of the polynomial kernel. Not given in the paper; 1 is the least value for which the kernel of
            degree 2 rises over all cosines: with 0 it could not tell opposite tokens from equal ones.
        degree (`int`, *optional*, defaults to 2):
            \\(d\\) of the polynomial kernel, as in the paper.

    Raises:
        ValueError: for an unknown name or a constant outside its range.
    """

    name: str = "rbf"
    gamma: float = 0.5
    constant: float = 1.0
    degree: int = 2

    def __post_init__(self) -> None:
        if self.name not in KERNELS:
            raise ValueError(f"TokenKernel: unknown name {self.name!r}; known are {', '.join(KERNELS)}.")
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"TokenKernel: gamma must be positive and finite, got {self.gamma}.")
        if not 0 <= self.constant < math.inf:
            raise ValueError(f"TokenKernel: constant must not be negative, and finite, got {self.constant}.")
        if not isinstance(self.degree, int) or self.degree < 1:
            raise ValueError(f"TokenKernel: degree must be a whole number of at least 1, got {self.degree}.")

    def of_cosines(self, cosines: Tensor) -> Tensor:
        """Kernel values for cosines of any shape, in the dtype of `cosines`."""
        if self.name == "linear":
            return cosines
        if self.name == "polynomial":
            return (cosines + self.constant) ** self.degree
        return torch.exp(2 * self.gamma * (cosines - 1))

    def values_and_slopes(self, cosines: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """
        Kernel values for `cosines` `(sides, ...)`, which are overwritten, and the derivative by the first side's: a
        factor times a tensor of slopes, `None` where all are 1. Values and slopes may share memory.
        """
        if self.name == "linear":
            return cosines, None, 1.0
        if self.name == "polynomial":
            base = cosines.add_(self.constant)
            slopes = base[0] ** (self.degree - 1)
            return base.pow_(self.degree), slopes, float(self.degree)
        # one pass for both steps
        values = torch.add(cosines.new_tensor(-2 * self.gamma), cosines, alpha=2 * self.gamma, out=cosines).exp_()
        return values, values[0], 2 * self.gamma

    @property
    def span(self) -> float:
        """The most by which two values of any cosines can differ."""
        if self.name == "linear":
            return 2.0
        if self.name == "polynomial":
            turns = self.degree % 2 == 0 and self.constant < 1
            least = 0.0 if turns else (self.constant - 1) ** self.degree
            return (self.constant + 1) ** self.degree - least
        return 1 - math.exp(-4 * self.gamma)

    def gram(self, tokens: Tensor) -> Tensor:
        """`(..., tokens, width)` of any length -> Gram matrices `(..., tokens, tokens)`, float32 or float64."""
        with autocast_disabled(tokens):
            return self.of_unit_tokens(unit_tokens(tokens))

    def of_unit_tokens(self, tokens: Tensor) -> Tensor:
        """As `gram`, for tokens that already have unit length."""
        return self.of_cosines(tokens @ tokens.transpose(-1, -2))

    def to_dict(self) -> dict[str, Any]:
        """The name and the constants that this kernel uses."""
        constants = {"linear": (), "polynomial": ("constant", "degree"), "rbf": ("gamma",)}[self.name]
        return {"name": self.name} | {constant: getattr(self, constant) for constant in constants}


def unit_tokens(tokens: Tensor) -> Tensor:
    """
    `(..., width)` divided by its length, float32 or float64. Tokens shorter than `SHORTEST_TOKEN` become zero and get
    no gradient, so that a dead token has a finite one.
    """
    tokens = at_least_float32(tokens)
    lengths = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    dead = lengths < SHORTEST_TOKEN
    return (tokens / lengths.masked_fill(dead, 1.0)).masked_fill(dead, 0.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def autocast_disabled(tensor: Tensor) -> AbstractContextManager:
    """Context in which operations on `tensor`'s device keep the dtype they are given."""
    return torch.autocast(tensor.device.type, enabled=False)
