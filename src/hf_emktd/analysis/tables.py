"""Markdown of the analyses."""

from __future__ import annotations

from collections.abc import Sequence

from .estimate import Estimate


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first `texts` columns are text, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def with_interval(estimate: Estimate) -> str:
    """`1.23 [1.10, 1.36]`"""
    return f"{estimate.nats:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
