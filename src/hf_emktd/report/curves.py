"""Learning curves: what was logged while the model was trained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ..analysis.entropy_plots import COLOURS, PANEL
from ..hub.model_card import METRIC_NAMES
from .page import visible

TOTAL, PART, WEIGHT, VALIDATION = "loss", "loss_", "weight_", "eval_"
# Of parts that belong to no branch.
OTHER_COLOURS = ("tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
LINE_STYLES = ("-", "--", ":", "-.")
SHARES = ("accuracy", "mAP", "mAUC", "MJ", "MF")


@dataclass
class Curve:
    """A logged number over the epochs."""

    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_curves(log: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """
    By name everything that was logged with an epoch, of the lines that are no summary of the whole training; numbers
    that are not finite are left out.

    Raises:
        ValueError: if there is no such line.
    """
    curves: dict[str, Curve] = {}
    for line in log:
        if "train_runtime" in line or not _is_finite(line.get("epoch")):
            continue
        for name, value in line.items():
            if _is_finite(value) and name not in ("epoch", "step"):
                curve = curves.setdefault(name, Curve())
                curve.epochs.append(line["epoch"])
                curve.values.append(value)
    if not curves:
        raise ValueError("nothing was logged while the model was trained; --logging_steps says how often.")
    return curves


def loss_curves(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The whole loss and its parts that are ever above 0, the whole first; a logarithm has no place for others."""
    names = [name for name in curves if name == TOTAL or name.startswith(PART)]
    return {name: curves[name] for name in sorted(names) if max(curves[name].values) > 0}


def zero_parts(curves: Mapping[str, Curve]) -> list[str]:
    """Parts of the loss that are 0 throughout, by the name of the part."""
    return [name.removeprefix(PART) for name in curves if name.startswith(PART) and not any(curves[name].values)]


def draw_losses(curves: Mapping[str, Curve]) -> Figure:
    """The loss and its parts on a logarithmic axis; parts of a branch in the colour of the branch."""
    figure, axis = _panel("loss")
    others, used = cycle(OTHER_COLOURS), Counter()
    for name, curve in loss_curves(curves).items():
        part = name.removeprefix(PART)
        branch = next((branch for branch in COLOURS if part.endswith(branch)), None)
        colour = "black" if name == TOTAL else COLOURS[branch] if branch else next(others)
        style = LINE_STYLES[used[colour] % len(LINE_STYLES)]
        used[colour] += 1
        _plot(axis, curve, "sum" if name == TOTAL else part, color=colour, linestyle=style)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    _legend_below(figure, axis)
    return figure


def draw_weights(curves: Mapping[str, Curve]) -> Figure | None:
    """The mean weight of each branch; `None` where none was logged."""
    branches = [branch for branch in COLOURS if WEIGHT + branch in curves]
    if not branches:
        return None
    figure, axis = _panel("mean weight of a branch")
    for branch in branches:
        _plot(axis, curves[WEIGHT + branch], branch, color=COLOURS[branch])
    axis.set_ylim(0, 1.03)
    _legend_below(figure, axis)
    return figure


def draw_validation(curves: Mapping[str, Curve]) -> Figure | None:
    """Metrics on the validation clips, in %; `None` where none was logged."""
    names = [name for name in SHARES if VALIDATION + name in curves]
    if not names:
        return None
    figure, axis = _panel("validation clips (%)")
    for name in names:
        curve = curves[VALIDATION + name]
        _plot(axis, Curve(curve.epochs, [100 * value for value in curve.values]), METRIC_NAMES[name])
    _legend_below(figure, axis)
    return figure


def _panel(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(PANEL[0] * 1.3, PANEL[1] * 1.3), layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel="epoch", ylabel=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    return figure, axis


def _plot(axis: Axes, curve: Curve, label: str, **options: Any) -> None:
    # a single point has no line
    marker = "o" if len(curve.values) == 1 else None
    axis.plot(curve.epochs, curve.values, label=visible(label).replace("$", r"\$"), marker=marker, **options)


def _legend_below(figure: Figure, axis: Axes) -> None:
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
