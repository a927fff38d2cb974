"""Amounts and limits."""

from __future__ import annotations

import pytest

from hf_emktd.search import Budget, parse_amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("10M", 10_000_000), ("1.5G", 1_500_000_000), ("400k", 400_000), ("0.25m", 250_000), ("12345", 12345), (7, 7)],
)
def test_amounts(text, amount):
    assert parse_amount(text) == amount


@pytest.mark.parametrize("text", ["", "M", "10 MB", "-5", "0", "1e6", "ten", "1.2.3"])
def test_what_is_no_amount(text):
    with pytest.raises(ValueError, match="expected a positive number such as 10M"):
        parse_amount(text)


def test_limits_are_included_and_what_is_not_known_is_not_looked_at():
    budget = Budget(max_params="1k", max_macs="2k", max_latency_ms=3.0, max_memory_mb=4.0)
    assert budget.admits(parameters=1000, macs=2000, latency_ms=3.0, memory_mb=4.0)
    assert budget.admits()
    for cost in ({"parameters": 1001}, {"macs": 2001}, {"latency_ms": 3.1}, {"memory_mb": 4.1}):
        assert not budget.admits(**cost)


def test_one_limit_leaves_the_rest_free():
    assert Budget(max_macs="1").admits(parameters=10**12, latency_ms=1e9, memory_mb=1e9)


def test_no_limit_is_refused():
    with pytest.raises(ValueError, match="at least one of --max_params, --max_macs"):
        Budget()


@pytest.mark.parametrize("limits", [{"max_latency_ms": 0.0}, {"max_memory_mb": -1.0}, {"max_params": "0"}])
def test_limits_are_positive(limits):
    with pytest.raises(ValueError, match="positive"):
        Budget(**limits)
