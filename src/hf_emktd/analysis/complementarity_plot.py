"""The complementarity check as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .complementarity import ESTIMATORS, Agreement, Pair

SHARED, TOLD = "tab:blue", "tab:orange"
# Vertical distance of the two marks of a pair.
OFFSET = 0.15


def draw_complementarity(pairs: Sequence[Pair], agreement: Agreement | None = None) -> Figure:
    """
    For each estimator a row a pair: what teacher and student share, and what the student's branch tells of the labels,
    with intervals. With measured gains a third panel, gain against margin.
    """
    panels = len(ESTIMATORS) + (agreement is not None)
    figure = Figure(figsize=(4 * panels + 1, 0.42 * len(pairs) + 1.6), layout="constrained")
    axes = figure.subplots(1, panels)
    for name, axis in zip(ESTIMATORS, axes, strict=False):
        _draw_pairs(axis, pairs, name)
    axes[0].set_yticks(range(len(pairs)), [_title(pair) for pair in pairs])
    axes[0].legend(*axes[0].get_legend_handles_labels(), loc="best", fontsize="small")
    if agreement is not None:
        _draw_gains(axes[-1], pairs, agreement)
    return figure


def _draw_pairs(axis: Axes, pairs: Sequence[Pair], estimator: str) -> None:
    rows = np.arange(len(pairs))
    sides = {
        "I(teacher; student)": ([pair.shared[estimator] for pair in pairs], SHARED, "o", -OFFSET),
        "I(student; labels)": ([pair.told[estimator] for pair in pairs], TOLD, "D", OFFSET),
    }
    for label, (estimates, colour, marker, offset) in sides.items():
        nats = np.array([estimate.nats for estimate in estimates])
        reach = np.array([[e.nats - e.low, e.high - e.nats] for e in estimates]).T
        axis.errorbar(nats, rows + offset, xerr=reach, fmt=marker, color=colour, label=label, markersize=5)
    axis.axvline(0, color="black", linewidth=0.5)
    axis.set(title=estimator, xlabel="nats", yticks=rows, yticklabels=[], ylim=(len(pairs) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)


def _draw_gains(axis: Axes, pairs: Sequence[Pair], agreement: Agreement) -> None:
    measured = [pair for pair in pairs if pair.name in agreement.gains]
    gains = [agreement.gains[pair.name] for pair in measured]
    for name, marker in zip(ESTIMATORS, "os", strict=True):
        axis.plot([pair.margins[name].nats for pair in measured], gains, marker, label=name)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.axvline(0, color="black", linewidth=0.5)
    axis.set(title="advice and gain", xlabel="I(teacher; student) - I(student; labels), nats", ylabel="gain in points")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)


def _title(pair: Pair) -> str:
    return f"{pair.teacher} → {pair.student}{' *' if pair.crosses else ''}"
