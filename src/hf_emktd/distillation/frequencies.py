"""Slow and fast changes along the features of a vector."""

from __future__ import annotations

import torch
from torch import Tensor


def split_frequencies(vectors: Tensor, cut: float = 0.5) -> tuple[Tensor, Tensor]:
    """
    The slow and the fast part of vectors `(..., width)` along their features, each of that shape; together they are
    the vectors less their means. `cut` is the share of the spectrum that is slow.
    """
    width = vectors.shape[-1]
    spectrum = torch.fft.rfft(vectors, dim=-1)
    edge = 1 + low_bins(width, cut)
    low, high = torch.zeros_like(spectrum), torch.zeros_like(spectrum)
    low[..., 1:edge], high[..., edge:] = spectrum[..., 1:edge], spectrum[..., edge:]
    return torch.fft.irfft(low, n=width, dim=-1), torch.fft.irfft(high, n=width, dim=-1)


def low_bins(width: int, cut: float) -> int:
    """
    How many of the `width // 2` frequencies above 0 are low: 128 of 256 at width 512, as in the official code.

    Raises:
        ValueError: if one side of the cut would be empty.
    """
    bins = width // 2
    low = int(cut * bins)
    if not 0 < low < bins:
        raise ValueError(
            f"cut must leave some of the {bins} frequencies of {width} features on either side, got {cut}. Use 0.5, "
            "the paper's best, and tokens at least 4 wide."
        )
    return low


def signed_log(values: Tensor) -> Tensor:
    r"""\\(\mathrm{sign}(x) \log(1 + |x|)\\) of every element."""
    return values.sign() * values.abs().log1p()
