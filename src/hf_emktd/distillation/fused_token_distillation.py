"""Token distillation in one pass over blocks of the Gram matrices, value and gradient together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers.utils import is_triton_available

from .kernels import SHORTEST_TOKEN, TokenKernel, at_least_float32

# Entries of a block: on a processor its float32 matrices stay near a core, an accelerator wants large ones.
CACHE_ENTRIES = 2**18
ACCELERATOR_ENTRIES = 2**24
# float32 numbers of a cache line: a block's rows that begin at lines are written and read faster.
LINE = 16


def compared_pairs(student_tokens: Tensor, teacher_tokens: Tensor, kernel: TokenKernel, delta: float) -> Tensor:
    r"""
    Per clip \\(\sum_{ij} \mathrm{Huber}_\delta(K^T_{ij} - K^S_{ij})\\) over all pairs of its tokens
    `(batch, tokens, width)`: `(batch,)`, float32, or float64 for float64 tokens.

    No Gram matrix is kept: memory grows with the number of tokens, not its square. The matrices are symmetric, so
    blocks below the diagonal are not computed; the gradient is formed with the value, in the same blocks, and cannot
    be differentiated again. A token shorter than `SHORTEST_TOKEN` is zero and gets no gradient, as in
    [`~distillation.kernels.unit_tokens`].
    """
    constants = (kernel.name, kernel.gamma, kernel.constant, kernel.degree)
    return _ComparedPairs.apply(student_tokens, teacher_tokens, *constants, delta)


class _ComparedPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student_tokens, teacher_tokens, *constants):
        # a compiler sees one operation; called directly it costs less
        compare = _operation if torch.compiler.is_compiling() else sums_and_gradient
        sums, gradient = compare(student_tokens, teacher_tokens, *constants, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return sums

    @staticmethod
    def backward(ctx, of_sums):
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("token distillation has no second derivative; call backward without create_graph=True.")
        (gradient,) = ctx.saved_tensors
        return of_sums[:, None, None] * gradient, *[None] * 6


def sums_and_gradient(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    name: str,
    gamma: float,
    constant: float,
    degree: int,
    delta: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The sums of [`compared_pairs`] and their gradient by the student's tokens, empty unless `with_gradient`."""
    kernel = TokenKernel(name, gamma, constant, degree)
    student_tokens, teacher_tokens = _in_one_dtype(student_tokens, teacher_tokens)
    compare, clips = _form(student_tokens)
    gradient = student_tokens.new_zeros(student_tokens.shape) if with_gradient else student_tokens.new_empty(0)
    sums = []
    for start in range(0, len(student_tokens), clips):
        chunk = slice(start, start + clips)
        student, scales = _directions(student_tokens[chunk])
        teacher, _ = _directions(teacher_tokens[chunk])
        pull = gradient[chunk] if with_gradient else None
        sums.append(compare(student, teacher, kernel, delta, pull))
        if pull is not None:
            through_length(pull, student, scales)
    return torch.cat(sums), gradient


_operation = torch.library.custom_op("hf_emktd::token_distillation", sums_and_gradient, mutates_args=())


@_operation.register_fake
def _(student_tokens: Tensor, teacher_tokens: Tensor, *constants: object) -> tuple[Tensor, Tensor]:
    *_, with_gradient = constants
    student_tokens, _ = _in_one_dtype(student_tokens, teacher_tokens)
    gradient = student_tokens.new_zeros(student_tokens.shape) if with_gradient else student_tokens.new_empty(0)
    return student_tokens.new_empty(student_tokens.shape[0]), gradient


def compare_unit_tokens(
    student: Tensor, teacher: Tensor, kernel: TokenKernel, delta: float, gradient: Tensor | None
) -> Tensor:
    """The sums of [`compared_pairs`] for unit tokens; adds their gradient by `student` to `gradient`."""
    batch, count, width = student.shape
    blocks = list(upper_blocks(0, count, block_side(student.device)))
    bends = kernel.span > delta
    entries = batch * max(_length(rows) * _length(columns) for rows, columns in blocks)
    memory = student.new_empty((3 if bends else 2) * entries)
    products = student.new_empty(batch * max(_length(part) for block in blocks for part in block) * width)
    parts = []
    for rows, columns in blocks:
        pair = _cosines((student, teacher), rows, columns, memory)
        (ours, theirs), slopes, factor = kernel.values_and_slopes(pair)
        difference = torch.sub(ours, theirs, out=theirs)
        part, pull = _huber(difference, delta, memory[pair.numel() :]) if bends else _squares(difference)
        parts.append(part if rows == columns else 2 * part)
        if gradient is None:
            continue
        if slopes is not None:
            pull.mul_(slopes)
        # an entry counts twice: off the diagonal as its mirror image, on a block of the diagonal for its two tokens
        _add_product(gradient[:, rows], pull, student[:, columns], 2 * factor, products)
        if rows != columns:
            _add_product(gradient[:, columns], pull.mT, student[:, rows], 2 * factor, products)
    return torch.cat(parts, dim=1).sum(dim=1)


def sum_over_gram(tokens: Tensor, kernel: TokenKernel, term: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """
    Per clip the sum `(batch,)` of `term` over all pairs of its tokens `(batch, tokens, width)`. `term` takes kernel
    values `(clips, rows, columns)` and says which clips they are of; it gives numbers of their shape.
    """
    tokens = at_least_float32(tokens)
    batch, count, _ = tokens.shape
    clips, side = clips_at_a_time(tokens), block_side(tokens.device)
    memory = tokens.new_empty(min(clips, batch) * min(count, side) ** 2)
    sums = []
    for start in range(0, batch, clips):
        chunk = slice(start, start + clips)
        units, _ = _directions(tokens[chunk])
        parts = []
        for rows, columns in upper_blocks(0, count, side):
            values = kernel.of_cosines(_cosines((units,), rows, columns, memory)[0])
            part = term(values, chunk).sum(dim=(1, 2))
            parts.append(part if rows == columns else 2 * part)
        sums.append(torch.stack(parts).sum(dim=0))
    return torch.cat(sums)


def upper_blocks(start: int, stop: int, side: int) -> Iterator[tuple[slice, slice]]:
    """
    Rows and columns of the blocks on and above the diagonal of a square matrix from `start` to `stop`, at most `side`
    wide: each half of the matrix, then what lies beside both. Those on the diagonal, where half of the entries are
    computed in vain, are at most three eighths as wide. Where they can, columns fill whole cache lines.
    """
    if stop - start <= max(1, 3 * side // 8):
        yield slice(start, stop), slice(start, stop)
        return
    middle = stop - _whole_lines((stop - start) // 2, stop - start - 1)
    yield from upper_blocks(start, middle, side)
    yield from upper_blocks(middle, stop, side)
    for rows in _equal_parts(start, middle, side):
        for columns in _equal_parts(middle, stop, side):
            yield rows, columns


def _length(part: slice) -> int:
    return part.stop - part.start


def _equal_parts(start: int, stop: int, longest: int) -> list[slice]:
    length = _whole_lines(math.ceil((stop - start) / math.ceil((stop - start) / longest)), longest)
    return [slice(first, min(first + length, stop)) for first in range(start, stop, length)]


def _whole_lines(count: int, most: int) -> int:
    """`count` rounded up to whole cache lines, if that is at most `most`."""
    rounded = math.ceil(count / LINE) * LINE
    return rounded if rounded <= most else count


def block_side(device: torch.device) -> int:
    """Tokens of a block at most."""
    return math.isqrt(_entries(device))


def clips_at_a_time(tokens: Tensor) -> int:
    """
    How many clips are compared together: as many as fill a block, and on a processor at least two for each thread,
    since threads that share one clip's blocks wait for each other at every operation.
    """
    least = 2 * torch.get_num_threads() if tokens.device.type == "cpu" else 1
    return max(least, _entries(tokens.device) // tokens.shape[1] ** 2)


def _entries(device: torch.device) -> int:
    return CACHE_ENTRIES if device.type == "cpu" else ACCELERATOR_ENTRIES


def _form(tokens: Tensor) -> tuple[Callable[..., Tensor], int]:
    """What compares unit tokens, and how many clips at a time."""
    if tokens.is_cuda and tokens.dtype == torch.float32 and is_triton_available():
        from . import token_distillation_triton

        return token_distillation_triton.compare_unit_tokens, len(tokens)
    return compare_unit_tokens, clips_at_a_time(tokens)


def _in_one_dtype(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(dtype), second.to(dtype)


def _directions(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tokens and what they were multiplied with `(batch, tokens, 1)`, 0 for dead ones."""
    tokens = tokens.contiguous()
    lengths = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    scales = lengths.reciprocal().masked_fill_(lengths < SHORTEST_TOKEN, 0.0)
    return tokens * scales, scales


def through_length(gradient: Tensor, units: Tensor, scales: Tensor) -> None:
    """Turns a gradient by unit tokens into one by the tokens themselves."""
    along = torch.linalg.vecdot(gradient, units).unsqueeze(-1)
    gradient.addcmul_(along, units, value=-1).mul_(scales)


def _cosines(units: Sequence[Tensor], rows: slice, columns: slice, memory: Tensor) -> Tensor:
    """Of the tokens of each of `units`: `(len(units), clips, rows, columns)`, at the start of `memory`."""
    shape = (len(units), len(units[0]), _length(rows), _length(columns))
    cosines = memory[: math.prod(shape)].view(shape)
    for tokens, out in zip(units, cosines, strict=True):
        torch.bmm(tokens[:, rows], tokens[:, columns].mT, out=out)
    return cosines


def _squares(difference: Tensor) -> tuple[Tensor, Tensor]:
    """[`_huber`] of differences within delta: half their squares, whose derivative they are."""
    return torch.linalg.vector_norm(difference, dim=-1).square() / 2, difference


def _huber(difference: Tensor, delta: float, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Sums per token of the Huber loss `(clips, rows)`, and its derivative; `difference` is overwritten."""
    clipped = torch.clamp(difference, -delta, delta, out=memory[: difference.numel()].view_as(difference))
    return difference.sub_(clipped, alpha=0.5).mul_(clipped).sum(dim=-1), clipped


def _add_product(total: Tensor, left: Tensor, right: Tensor, factor: float, memory: Tensor) -> None:
    # not baddbmm_: into part of a tensor it multiplies clip by clip, and threads wait for each other at each
    product = memory[: total.numel()].view(total.shape)
    total.add_(torch.bmm(left, right, out=product), alpha=factor)
