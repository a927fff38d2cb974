"""Kernelized token distillation: the Gram matrices of two token sets, compared clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .fused_token_distillation import compared_pairs, sum_over_gram
from .kernels import TokenKernel, at_least_float32, autocast_disabled

MODALITIES = ("audio", "visual")
BRANCHES = (*MODALITIES, "fusion")

Grid = tuple[int, int]
Grids = dict[str, tuple[Grid, ...]]


def token_grids(config: Any) -> Grids:
    """
    By branch the grids, (rows, columns), that the tokens of a model with this config lie on, in the order of the
    tokens: CAV-MAE's fusion tokens are the audio grid, then the visual one; a model of several frames has one grid a
    frame. Each grid is a slice of the tokens, row by row.
    """
    return dict(config.branch_grids)


def modalities_of(grids: Grids) -> tuple[str, ...]:
    """What a model with these grids hears and sees: the modalities that it has a branch for, sound first."""
    return tuple(modality for modality in MODALITIES if modality in grids)


def shared_branches(student_grids: Grids, teacher_grids: Grids) -> tuple[str, ...]:
    """
    The branches of which a student can be compared with a teacher token by token: those that both have. Fusion only
    if the teacher hears and sees all that the student does; of its tokens then count those of the student's modalities
    ([`pool_branch`]).
    """
    common = tuple(branch for branch in BRANCHES if branch in student_grids and branch in teacher_grids)
    covered = set(modalities_of(student_grids)) <= set(modalities_of(teacher_grids))
    return common if covered else tuple(branch for branch in common if branch != "fusion")


def cut_sound(grids: Grids, share: Fraction) -> Grids:
    """
    The grids of a model of whose sound the first `share` alone counts. Sound lies on (frequency, time).

    Raises:
        ValueError: if that share ends inside a column of tokens.
    """
    return {
        branch: tuple(
            (rows, _columns(share, columns)) if index in _sound_slices(branch, grids) else (rows, columns)
            for index, (rows, columns) in enumerate(slices)
        )
        for branch, slices in grids.items()
    }


def cut_sound_tokens(branch: str, tokens: Tensor, grids: Grids, share: Fraction) -> Tensor:
    """The tokens `(batch, tokens, width)` of one branch that lie on [`cut_sound`] of their model's `grids`."""
    kept = []
    slices = tokens.split([rows * columns for rows, columns in grids[branch]], dim=1)
    for index, (part, (rows, columns)) in enumerate(zip(slices, grids[branch], strict=True)):
        if index in _sound_slices(branch, grids):
            part = part.unflatten(1, (rows, columns))[:, :, : _columns(share, columns)].flatten(1, 2)
        kept.append(part)
    return torch.cat(kept, dim=1)


def _sound_slices(branch: str, grids: Grids) -> tuple[int, ...]:
    """Which slices of a branch are sound: of fusion tokens the first, where they have a slice for each modality."""
    if branch == "audio":
        return tuple(range(len(grids[branch])))
    return (0,) if branch == "fusion" and "audio" in grids else ()


def _columns(share: Fraction, columns: int) -> int:
    kept = share * columns
    if kept.denominator != 1:
        raise ValueError(
            f"{share} of {columns} columns of the teacher's audio tokens is {float(kept):g}: the student's sound ends "
            "inside a column. Give the student the teacher's audio_length, or one for which that number is whole."
        )
    return kept.numerator


def pool_tokens(tokens: Tensor, grid_from: Grid, grid_to: Grid) -> Tensor:
    """
    Average-pools tokens `(batch, rows * columns, width)`, row-major, from one grid to a coarser one; float32 or
    float64. How the paper treats differing token counts is not given; means of neighbouring tokens stay in the space
    of tokens, whereas pooled Gram matrices would lose their unit diagonal.

    Raises:
        ValueError: if the count of tokens is not that of `grid_from`, or `grid_to` is finer: copies of a teacher token
            would teach neighbouring student tokens to be equal.
    """
    _check_count("tokens", tokens, (grid_from,))
    check_pools("tokens", grid_from, grid_to)
    if grid_from == grid_to:
        return tokens
    image = at_least_float32(tokens).transpose(1, 2).unflatten(2, grid_from)
    return F.adaptive_avg_pool2d(image, grid_to).flatten(2).transpose(1, 2)


def pool_branch(branch: str, tokens: Tensor, grids_from: Grids, grids_to: Grids) -> Tensor:
    """
    [`pool_tokens`] for each slice of one branch's tokens by itself: a modality's or a frame's. Both sides of `grids`
    have all branches of their model: of fusion tokens the slices of modalities that `grids_to` lacks are left out.
    """
    sources, targets = grids_from[branch], grids_to[branch]
    _check_count(f"{branch} tokens", tokens, sources)
    if sources == targets:
        return tokens
    kept = _kept_slices(branch, grids_from, grids_to)
    _check_slices(branch, kept, targets)
    slices = tokens.split([rows * columns for rows, columns in sources], dim=1)
    pooled = [pool_tokens(slices[index], sources[index], target) for index, target in zip(kept, targets, strict=True)]
    return torch.cat(pooled, dim=1)


def grid_means(tokens: Tensor, grids: Sequence[Grid]) -> Tensor:
    """The mean token of each grid, from tokens `(batch, tokens, width)`: `(batch, grids, width)`, at least float32."""
    slices = at_least_float32(tokens).split([rows * columns for rows, columns in grids], dim=1)
    return torch.stack([part.mean(dim=1) for part in slices], dim=1)


def mean_of_branch(branch: str, means: Tensor, grids_from: Grids, grids_to: Grids) -> Tensor:
    """
    The mean `(batch, width)` of a branch's tokens, from the [`grid_means`] `(batch, grids, width)` of `grids_from`:
    of the modalities of `grids_to` alone, a grid counting as many tokens as it has there.
    """
    kept, targets = _kept_slices(branch, grids_from, grids_to), grids_to[branch]
    _check_slices(branch, kept, targets)
    counts = means.new_tensor([rows * columns for rows, columns in targets])
    return torch.einsum("bgw,g->bw", means[:, kept], counts / counts.sum())


def check_branch_pools(branch: str, grids_from: Grids, grids_to: Grids) -> None:
    """
    Raises `ValueError` unless [`pool_branch`] can pool: both sides have equally many slices and every slice of
    `grids_from` is at least as fine as that of `grids_to`.
    """
    kept = _kept_slices(branch, grids_from, grids_to)
    _check_slices(branch, kept, grids_to[branch])
    for index, target in zip(kept, grids_to[branch], strict=True):
        check_pools(f"{branch} branch", grids_from[branch][index], target)


def check_pools(what: str, grid_from: Grid, grid_to: Grid) -> None:
    """Raises `ValueError` unless `grid_from` is at least as fine as `grid_to` on both sides."""
    if grid_to[0] > grid_from[0] or grid_to[1] > grid_from[1]:
        raise ValueError(
            f"{what}: the student's grid of {grid_to[0]} x {grid_to[1]} tokens is finer than the teacher's "
            f"{grid_from[0]} x {grid_from[1]}; teacher tokens are averaged, never copied. Give the student larger "
            "patches or a smaller input, or the teacher a larger input."
        )


def sliding_windows(branch: str, grids: Grids) -> Tensor:
    """
    Token indices of nine overlapping windows of half the grid's sides, a quarter of a side apart: int64
    `(9, tokens / 4)`. Nine Gram matrices inside them hold 9 / 16 of the pairs of tokens.

    The paper's Appendix C states the factor; the geometry is not given. A window joins the windows of the same number
    of all the branch's grids, so that pairs across modalities, the reason for the fusion branch, and across frames are
    kept. Odd sides round half a side up (every token is covered) and the middle start down.

    Raises:
        ValueError: if a side is shorter than 4 tokens, where the three starts along it would coincide.
    """
    windows, offset = [], 0
    for rows, columns in grids[branch]:
        index = torch.arange(rows * columns).view(rows, columns) + offset
        windows.append(
            torch.stack(
                [index[r, c].flatten() for r in _window_slices(branch, rows) for c in _window_slices(branch, columns)]
            )
        )
        offset += rows * columns
    return torch.cat(windows, dim=1)


def _window_slices(branch: str, side: int) -> list[slice]:
    if side < 4:
        raise ValueError(
            f"{branch}: sliding windows need sides of at least 4 tokens, got {side}. Set sliding_windows=False; "
            "a grid this small has few pairs."
        )
    half = (side + 1) // 2
    return [slice(start, start + half) for start in (0, (side - half) // 2, side - half)]


def token_distillation_loss(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    kernel: TokenKernel,
    delta: float = 1.0,
    windows: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""
    Per-clip loss `(batch,)`, float32 (float64 for float64 tokens) even under autocast, of tokens
    `(batch, tokens, width)`; the widths may differ, the counts may not:
    \\(\frac{1}{N^2} \sum_{ij} \mathrm{Huber}_\delta(K^T_{ij} - K^S_{ij})\\), the paper's Eq. 2. Computed block by
    block, [`~distillation.fused_token_distillation.compared_pairs`]: memory grows with N, and there is no second
    derivative.

    With the RBF kernel of gamma 0.5 all differences are below 1, so the default `delta` gives half the squared error.

    Args:
        delta: Huber threshold; 1 as in the paper.
        windows: int64 `(windows, tokens)` from [`sliding_windows`]; only pairs inside a window are compared.
        mask: bool `(batch, tokens)`, `True` for real tokens where clips have fewer; the mean is over the real pairs,
            0 for a clip without any.

    No gradient reaches `teacher_tokens`.

    Raises:
        ValueError: if the counts of clips or tokens differ, or `mask` is none of these tokens.
    """
    if student_tokens.shape[:2] != teacher_tokens.shape[:2]:
        raise ValueError(
            f"student tokens {tuple(student_tokens.shape)} and teacher tokens {tuple(teacher_tokens.shape)} need "
            "equal counts of clips and tokens. Bring the teacher's to the student's grid with pool_branch."
        )
    if mask is not None:
        _check_mask(mask, student_tokens)
        # zero on both sides, so that their kernel values agree
        student_tokens, teacher_tokens = (x.masked_fill(~mask[..., None], 0) for x in (student_tokens, teacher_tokens))
    with autocast_disabled(student_tokens):
        tokens = (_windowed(x, windows) for x in (student_tokens, teacher_tokens.detach()))
        sums = compared_pairs(*tokens, kernel, delta).view(len(student_tokens), -1).sum(dim=1)
        return sums / _count_pairs(student_tokens, windows, mask)


def gram_spread(tokens: Tensor, kernel: TokenKernel, delta: float = 1.0, windows: Tensor | None = None) -> Tensor:
    """
    Per-clip loss `(batch,)` that a student would have whose Gram matrix were constant at the mean of the teacher's:
    what [`token_distillation_loss`] is worth when nothing but the mean similarity is learnt. Arguments as there.
    """
    pairs = _count_pairs(tokens, windows, None)
    with autocast_disabled(tokens), torch.no_grad():
        windowed = _windowed(tokens, windows)
        sums = sum_over_gram(windowed, kernel, lambda values, clips: values)
        means = (sums.view(len(tokens), -1).sum(dim=1) / pairs).repeat_interleave(len(windowed) // len(tokens))

        def deviations(values: Tensor, clips: slice) -> Tensor:
            return F.huber_loss(values, means[clips, None, None].expand_as(values), reduction="none", delta=delta)

        return sum_over_gram(windowed, kernel, deviations).view(len(tokens), -1).sum(dim=1) / pairs


def _windowed(tokens: Tensor, windows: Tensor | None) -> Tensor:
    """Each window as a clip of its own: `(batch * windows, tokens, width)`."""
    return tokens if windows is None else tokens[:, windows].flatten(0, 1)


def _count_pairs(tokens: Tensor, windows: Tensor | None, mask: Tensor | None) -> int | Tensor:
    """How many pairs of real tokens are compared: one number, with a mask one for each clip."""
    if mask is None:
        return tokens.shape[1] ** 2 if windows is None else windows.shape[0] * windows.shape[1] ** 2
    real = mask[:, None] if windows is None else mask[:, windows]
    return real.sum(dim=2).square().sum(dim=1).clamp(min=1)


def _check_mask(mask: Tensor, tokens: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"mask must be bool {tuple(tokens.shape[:2])}, True for real tokens, got {mask.dtype} {tuple(mask.shape)}."
        )


def _kept_slices(branch: str, grids_from: Grids, grids_to: Grids) -> list[int]:
    """Which slices of `grids_from` belong to modalities of `grids_to`: where they differ, fusion has one for each."""
    given, wanted = modalities_of(grids_from), modalities_of(grids_to)
    slices = list(range(len(grids_from[branch])))
    if branch != "fusion" or len(given) != len(slices):
        return slices
    return [index for index in slices if given[index] in wanted]


def _check_slices(branch: str, sources: Sequence[Any], targets: tuple[Grid, ...]) -> None:
    if len(sources) != len(targets):
        raise ValueError(
            f"{branch} branch: the student's tokens lie on {len(targets)} grids, the teacher's on {len(sources)}; "
            "slices are compared one by one. Give both models the same modalities and the same number of frames."
        )


def _check_count(what: str, tokens: Tensor, grids: tuple[Grid, ...]) -> None:
    expected = sum(rows * columns for rows, columns in grids)
    if tokens.shape[1] != expected:
        shapes = " + ".join(f"{rows} x {columns}" for rows, columns in grids)
        raise ValueError(
            f"{what}: got {tokens.shape[1]} tokens, but the grid {shapes} has {expected}. The config's branch_grids "
            "must describe the tokens that the model returns, prefix tokens dropped."
        )
