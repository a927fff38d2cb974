import json
import math
from pathlib import Path

import pytest
import torch
from frequency_formulas import formula_vectors

from hf_emktd.distillation.frequencies import low_bins, signed_log, split_frequencies

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "frequency_decoupled.json").read_text())


def wave(width, cycles, phase=0.0):
    return torch.cos(2 * math.pi * cycles * torch.arange(width, dtype=torch.float64) / width + phase)


def test_bands_equal_the_official_ones():
    bands = dict(zip(("low", "high"), split_frequencies(formula_vectors("student", "a")), strict=True))
    for name, band in bands.items():
        torch.testing.assert_close(band[:2, ::64], torch.tensor(GOLDEN["bands"][name]))


@pytest.mark.parametrize("width", [8, 9, 12])
def test_slow_and_fast_waves_are_told_apart_and_the_mean_is_dropped(width):
    slow, fast = wave(width, 1, 0.3), wave(width, width // 2)
    low, high = split_frequencies(5 + 2 * slow - 3 * fast)
    torch.testing.assert_close(low, 2 * slow)
    torch.testing.assert_close(high, -3 * fast)


def test_parts_add_up_to_the_vector_less_its_mean():
    vectors = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sum(split_frequencies(vectors)), vectors - vectors.mean(dim=1, keepdim=True))


@pytest.mark.parametrize(("width", "cut", "expected"), [(512, 0.5, 128), (8, 0.25, 1), (8, 0.75, 3), (6, 0.5, 1)])
def test_low_bins(width, cut, expected):
    assert low_bins(width, cut) == expected


@pytest.mark.parametrize(("width", "cut"), [(3, 0.5), (8, 0.1), (8, 1.0), (8, 0.0)])
def test_an_empty_band_raises(width, cut):
    with pytest.raises(ValueError, match=f"cut must leave some of the {width // 2} frequencies of {width} features"):
        low_bins(width, cut)


def test_signed_log_by_hand():
    values = torch.tensor([math.e - 1, 0.0, 1 - math.e**2])
    torch.testing.assert_close(signed_log(values), torch.tensor([1.0, 0.0, -2.0]))
