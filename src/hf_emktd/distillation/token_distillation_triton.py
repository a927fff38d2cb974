"""The pairs of token distillation in one Triton kernel, for CUDA."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kernels import TokenKernel

# Rows of a program, and how many columns and channels it takes at a time; larger tiles spill registers.
TILE = {"ROWS": 32, "COLUMNS": 32, "DEPTH": 16}
WARPS = 8
# Channels whose gradient a program holds; wider student tokens are shared among programs that compare them again.
WIDEST_GRADIENT = 256
# What tl.dot needs at least of a side.
SMALLEST_SIDE = 16


def compare_unit_tokens(
    student: Tensor, teacher: Tensor, kernel: TokenKernel, delta: float, gradient: Tensor | None
) -> Tensor:
    """[`~distillation.fused_token_distillation.compare_unit_tokens`] for contiguous float32 tokens."""
    batch, count, width = student.shape
    padded = min(WIDEST_GRADIENT, max(SMALLEST_SIDE, triton.next_power_of_2(width)))
    slices = 1 if gradient is None else triton.cdiv(width, padded)
    blocks = triton.cdiv(count, TILE["ROWS"])
    sums = student.new_empty(batch, blocks)
    with torch.cuda.device_of(student):
        _compare[(blocks, batch, slices)](
            student,
            teacher,
            sums,
            student if gradient is None else gradient,
            count,
            width,
            teacher.shape[2],
            delta,
            kernel.gamma,
            kernel.constant,
            KERNEL=kernel.name,
            DEGREE=kernel.degree,
            WITH_GRADIENT=gradient is not None,
            WIDTH=padded,
            **TILE,
            num_warps=WARPS,
        )
    return sums.sum(dim=1)


@triton.jit
def _compare(
    student,
    teacher,
    sums,
    gradient,
    count,
    student_width,
    teacher_width,
    delta,
    gamma,
    constant,
    KERNEL: tl.constexpr,
    DEGREE: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One block of rows of one clip against all its columns; program 2 says which slice of the gradient's width."""
    clip = tl.program_id(1).to(tl.int64)
    student += clip * count * student_width
    teacher += clip * count * teacher_width
    gradient += clip * count * student_width
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((ROWS,), tl.float32)
    pull = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, count, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        ours = _cosines(student, rows, columns, count, student_width, ROWS, COLUMNS, DEPTH)
        theirs = _cosines(teacher, rows, columns, count, teacher_width, ROWS, COLUMNS, DEPTH)
        ours, slopes = _values_and_slopes(ours, gamma, constant, KERNEL, DEGREE)
        theirs, _ = _values_and_slopes(theirs, gamma, constant, KERNEL, DEGREE)
        # absent tokens are zero on both sides, so their kernel values agree
        difference = ours - theirs
        clipped = tl.minimum(tl.maximum(difference, -delta), delta)
        total += tl.sum(clipped * (difference - 0.5 * clipped), axis=1)
        if WITH_GRADIENT:
            place = columns[:, None] * student_width + channels[None, :]
            within = (columns < count)[:, None] & (channels < student_width)[None, :]
            tokens = tl.load(student + place, mask=within, other=0.0)
            pull += tl.dot(clipped * slopes, tokens, input_precision="ieee")
    if tl.program_id(2) == 0:
        tl.store(sums + clip * tl.num_programs(0) + tl.program_id(0), tl.sum(total))
    if WITH_GRADIENT:
        place = rows[:, None] * student_width + channels[None, :]
        within = (rows < count)[:, None] & (channels < student_width)[None, :]
        tl.store(gradient + place, 2.0 * pull, mask=within)


@triton.jit
def _cosines(tokens, rows, columns, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    cosines = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        left = tl.load(
            tokens + rows[:, None] * width + depth[None, :],
            mask=(rows < count)[:, None] & (depth < width)[None, :],
            other=0.0,
        )
        right = tl.load(
            tokens + columns[None, :] * width + depth[:, None],
            mask=(columns < count)[None, :] & (depth < width)[:, None],
            other=0.0,
        )
        cosines += tl.dot(left, right, input_precision="ieee")
    return cosines


@triton.jit
def _values_and_slopes(cosines, gamma, constant, KERNEL: tl.constexpr, DEGREE: tl.constexpr):
    """Kernel values and their derivative by the cosine."""
    if KERNEL == "linear":
        values = cosines
        slopes = tl.full(cosines.shape, 1.0, tl.float32)
    elif KERNEL == "rbf":
        values = tl.exp(2.0 * gamma * (cosines - 1.0))
        slopes = 2.0 * gamma * values
    else:
        base = cosines + constant
        powers = tl.full(cosines.shape, 1.0, tl.float32)
        for _ in tl.static_range(DEGREE - 1):
            powers *= base
        values = powers * base
        slopes = DEGREE * powers
    return values, slopes
