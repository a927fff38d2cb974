"""What is kept of the tokens of a branch, to be compared with a student's later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from .kernels import unit_tokens
from .token_distillation import Grid, grid_means

# What an objective may read of a teacher: its answers, how the tokens of a clip lie to each other, the mean token of
# each grid, the tokens themselves, or the stages of a picture encoder.
READS = LOGITS, RELATIONS, MEANS, TOKENS, STAGES = ("logits", "relations", "means", "tokens", "stages")
# What a column of a code has a row for.
TOKEN, GRID, CLIP = ("token", "grid", "clip")

RANK_STEP = 4
# the smaller side of a matrix up to which all its singular values cost no more than the leading ones
EXACT_SIDE = 128
OVERSAMPLED = 16
# dimensions for what a code leaves out of each token; they cost time in every step, but are not stored
OWN_DIRECTIONS = 128
POWER_ITERATIONS = 2


@dataclass(frozen=True)
class TokenCodec(ABC):
    """
    Turns the tokens of a branch into columns of numbers and back.

    Class attributes:

    - **name** (`str`) -- Its key in `CODECS`.
    - **serves** (`tuple[str, ...]`) -- Which of `READS` can be had from its codes.
    - **columns** (`dict[str, tuple[str, str]]`) -- By column of a clip's code its dtype, and what it has a row for:
      each `"token"`, each `"grid"` or the `"clip"`. `"means"` is the mean token of each grid, where it is kept.
    """

    name: ClassVar[str]
    serves: ClassVar[tuple[str, ...]]
    columns: ClassVar[Mapping[str, tuple[str, str]]]

    @abstractmethod
    def encode(self, tokens: Tensor, grids: Sequence[Grid]) -> list[dict[str, Tensor]]:
        """Tokens `(batch, tokens, width)` on `grids` -> for each clip its `columns`, each `(rows, any)`."""

    @abstractmethod
    def decode(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The `columns` of a batch, each `(batch, rows, any)` -> float32 tokens `(batch, tokens, any)`."""

    def to_dict(self) -> dict[str, Any]:
        """Name and constants as plain values."""
        return {"name": self.name} | asdict(self)


@dataclass(frozen=True)
class PlainTokens(TokenCodec):
    """The tokens themselves in float16: two bytes a number, and every objective on tokens is served."""

    name = "tokens"
    serves = (LOGITS, RELATIONS, MEANS, TOKENS)
    columns: ClassVar[Mapping[str, tuple[str, str]]] = {"tokens": ("float16", TOKEN)}

    def encode(self, tokens: Tensor, grids: Sequence[Grid]) -> list[dict[str, Tensor]]:
        return [{"tokens": clip} for clip in _halved(tokens)]

    def decode(self, columns: Mapping[str, Tensor]) -> Tensor:
        return columns["tokens"].float()


@dataclass(frozen=True)
class TokenRelations(TokenCodec):
    r"""
    How the tokens of a clip lie to each other, in far fewer numbers than the tokens. Not part of the paper, whose
    teacher runs beside the student.

    Stored are the rows of \\(U_r S_r\\) of the singular value decomposition of the unit tokens, whose Gram matrix is
    the nearest of its rank to theirs, each column in int8 with a scale; by token the length of what these rows leave
    out, and its own length, so that tokens can still be pooled; and, in half precision, the mean token of each grid,
    which is all that relations between clips need. What is left out of a token is nearly orthogonal to
    what is left out of another, so decoded tokens get it back along directions of their own, as far apart as
    `OWN_DIRECTIONS` dimensions allow. Without, unit rows would be more alike than the tokens: on a trained teacher of
    the touchtone miniature, at rank 8, the loss would change by 5.5 % instead of 0.5 %.

    The rank of each clip is the least multiple of four for which the cosines of the decoded tokens deviate from those
    of the tokens by no more than `max_error` in the root mean square over all pairs. The loss is a mean over these
    pairs, so this is what moves it; the largest deviation of a pair is a few times that.

    Args:
        max_error (`float`, *optional*, defaults to 0.01): see above.
        max_rank (`int`, *optional*, defaults to 64): where the search ends, whether the bound holds or not.

    Raises:
        ValueError: for a constant outside its range.
    """

    name = "relations"
    serves = (LOGITS, RELATIONS, MEANS)
    columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "code": ("int8", TOKEN),
        "scale": ("float32", CLIP),
        "rest": ("uint8", TOKEN),
        "length": ("float16", TOKEN),
        "means": ("float16", GRID),
    }

    max_error: float = 0.01
    max_rank: int = 64

    def __post_init__(self) -> None:
        if not self.max_error > 0:
            raise ValueError(f"max_error must be positive, got {self.max_error}.")
        if self.max_rank < RANK_STEP:
            raise ValueError(f"max_rank must be at least {RANK_STEP}, got {self.max_rank}.")

    def encode(self, tokens: Tensor, grids: Sequence[Grid]) -> list[dict[str, Tensor]]:
        tokens = tokens.float()
        lengths = _halved(torch.linalg.vector_norm(tokens, dim=-1, keepdim=True))
        means = _halved(grid_means(tokens, grids))
        unit = unit_tokens(tokens)
        factors = _leading_factors(unit, self.max_rank)
        return [
            self._shortest(unit[clip], factors[clip]) | {"length": lengths[clip], "means": means[clip]}
            for clip in range(len(tokens))
        ]

    def decode(self, columns: Mapping[str, Tensor]) -> Tensor:
        return unit_tokens(_with_rest(columns["code"], columns["scale"], columns["rest"])) * columns["length"]

    def _shortest(self, unit: Tensor, factor: Tensor) -> dict[str, Tensor]:
        """The code of the least rank that keeps the bound, of one clip."""
        gram = unit @ unit.T
        codes, scales = _rounded(factor)
        for rank in _ranks(factor, self.max_error):
            code, scale = codes[:, :rank].contiguous(), scales[:, :rank].contiguous()
            rest = _lengths_left_out(unit, factor[:, :rank])
            difference = gram - _gram_of(_with_rest(code, scale, rest))
            if difference.square().mean().sqrt() <= self.max_error:
                break
        return {"code": code, "scale": scale, "rest": rest}


def _halved(numbers: Tensor) -> Tensor:
    """In half precision; what is too large for it becomes its largest number."""
    largest = torch.finfo(torch.float16).max
    return numbers.clamp(-largest, largest).half()


def cosine_errors(tokens: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
    """
    By clip `(batch,)` the largest and the root mean square deviation of the cosines between its tokens,
    `(batch, tokens, width)` against `(batch, tokens, any)`.
    """
    deviation = (_gram_of(tokens.float()) - _gram_of(decoded)).flatten(1)
    return deviation.abs().amax(dim=1), deviation.square().mean(dim=1).sqrt()


def _gram_of(tokens: Tensor) -> Tensor:
    unit = unit_tokens(tokens)
    return unit @ unit.transpose(-1, -2)


def _leading_factors(unit: Tensor, rank: int) -> Tensor:
    """`U S` of the leading singular vectors, `(batch, tokens, at most rank)`."""
    smaller = min(unit.shape[1:])
    if smaller <= EXACT_SIDE or rank + OVERSAMPLED >= smaller:
        left, values, _ = torch.linalg.svd(unit, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[unit.device] if unit.is_cuda else []):
            torch.manual_seed(0)
            left, values, _ = torch.svd_lowrank(unit, q=rank + OVERSAMPLED, niter=POWER_ITERATIONS)
    return (left * values.unsqueeze(1))[:, :, :rank]


def _rounded(factor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and the scale of each column, `(1, rank)`."""
    scale = factor.abs().amax(dim=0, keepdim=True) / 127
    return (factor / scale.clamp(min=torch.finfo(scale.dtype).tiny)).round().to(torch.int8), scale


def _lengths_left_out(unit: Tensor, factor: Tensor) -> Tensor:
    """uint8 `(tokens, 1)`: the length of what a truncated factor lacks of unit tokens, in 255ths."""
    whole, kept = (rows.square().sum(dim=-1, keepdim=True) for rows in (unit, factor))
    return (255 * (whole - kept).clamp(0, 1).sqrt()).round().to(torch.uint8)


def _with_rest(code: Tensor, scale: Tensor, rest: Tensor) -> Tensor:
    """Decoded rows, continued by what they lack along a direction of each token's own."""
    rows = code * scale
    own = _own_directions(rows.shape[-2], rows.device) * (rest / 255)
    return torch.cat([rows, own], dim=-1)


@lru_cache(maxsize=64)
def _own_directions(count: int, device: torch.device) -> Tensor:
    """
    Unit rows `(count, at most OWN_DIRECTIONS)`, orthogonal where there are no more than dimensions; of more, rows of a
    random orthonormal basis, whose Gram matrix is as near to the identity as that of so many rows can be.
    """
    if count <= OWN_DIRECTIONS:
        return torch.eye(count, device=device)
    random = torch.randn(count, OWN_DIRECTIONS, generator=torch.Generator().manual_seed(0))
    return unit_tokens(torch.linalg.qr(random).Q).to(device)


def _ranks(factor: Tensor, max_error: float) -> Iterator[int]:
    """Ranks to try: from the first whose truncation alone would keep the bound."""
    count, largest = factor.shape
    energies = factor.square().sum(dim=0)
    left_out = energies.square().flip(0).cumsum(0).flip(0).sqrt() / count  # [r]: of the columns from r on
    enough = int((left_out > max_error).sum())
    yield from range(max(1, enough // RANK_STEP) * RANK_STEP, largest, RANK_STEP)
    yield largest


CODECS: dict[str, type[TokenCodec]] = {"relations": TokenRelations, "tokens": PlainTokens}
