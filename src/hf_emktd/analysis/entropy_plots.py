"""Pictures of the entropy analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .corruption_sweeps import Level
from .entropy_report import EntropyAnalysis
from .modality_tags import TAGS

COLOURS = {"audio": "tab:blue", "visual": "tab:orange", "fusion": "tab:green"}
BINS = 30
PANEL = (3.6, 3.0)


def draw_entropies(analysis: EntropyAnalysis) -> dict[str, Figure]:
    """By name: `histogram`, `bins`, `sweeps`, and `tags` where there are any."""
    figures = {"histogram": draw_histogram(analysis), "bins": draw_bins(analysis), "sweeps": draw_sweeps(analysis)}
    return figures | ({"tags": draw_tags(analysis)} if analysis.tags else {})


def draw_histogram(analysis: EntropyAnalysis) -> Figure:
    """How the entropies of each branch are spread."""
    figure, axes = _panels(1, len(analysis.branches))
    edges = np.linspace(0, analysis.largest_entropy, BINS + 1)
    for axis, branch in zip(axes[0], analysis.branches, strict=True):
        entropies = analysis.readings.entropies[branch]
        axis.hist(entropies, edges, color=COLOURS[branch])
        axis.axvline(entropies.mean(), color="black", linestyle="--", label=f"mean {entropies.mean():.2f}")
        axis.set(title=branch, xlabel="entropy (nats)")
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("clips")
    return figure


def draw_bins(analysis: EntropyAnalysis) -> Figure:
    """Of each branch the scores and the weight of clips of similar entropy."""
    figure, axes = _panels(1, len(analysis.branches), sharey=True)
    for axis, branch in zip(axes[0], analysis.branches, strict=True):
        bins = analysis.bins[branch]
        entropies = [one.entropy for one in bins]
        axis.plot(
            entropies, [one.probe_score for one in bins], "o-", color=COLOURS[branch], label="the branch's probe"
        )
        axis.plot(entropies, [one.teacher_score for one in bins], "s--", color="tab:gray", label="teacher")
        axis.plot(entropies, [one.weight for one in bins], "k:", label=f"weight, λ = {analysis.entropy_lambda:g}")
        axis.set(title=branch, xlabel="mean entropy of the bin (nats)", ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"{analysis.score}, weight")
    axes[0][0].legend(fontsize="small")
    return figure


def draw_sweeps(analysis: EntropyAnalysis) -> Figure:
    """Weights with their quartiles above, scores below: left as the picture is covered, right as the sound drowns."""
    figure, axes = _panels(2, 2, sharey="row")
    for column, (levels, label, factor) in enumerate(
        ((analysis.covers, "picture covered (%)", 100), (analysis.noises, "signal to noise in the sound (dB)", 1))
    ):
        _draw_weights(axes[0][column], analysis, levels, factor)
        _draw_scores(axes[1][column], analysis, levels, factor)
        axes[1][column].set_xlabel(label)
    for axis in axes[:, 1]:
        axis.invert_xaxis()
    axes[0][0].set_ylabel(f"weight, λ = {analysis.entropy_lambda:g}")
    axes[1][0].set_ylabel(analysis.score)
    axes[1][0].legend(fontsize="small")
    return figure


def draw_tags(analysis: EntropyAnalysis) -> Figure:
    """Mean weight of each branch, with its standard error, by what can be heard and seen."""
    figure, axes = _panels(1, 1)
    width = 0.8 / len(analysis.branches)
    places = np.arange(len(analysis.tags))
    for index, branch in enumerate(analysis.branches):
        heights, errors = zip(*((one.weights[branch], one.errors[branch]) for one in analysis.tags), strict=True)
        offset = (index - (len(analysis.branches) - 1) / 2) * width
        axes[0][0].bar(places + offset, heights, width, yerr=errors, color=COLOURS[branch], label=branch)
    axes[0][0].set_xticks(places, [f"{TAGS[one.tag]}\n({one.clips})" for one in analysis.tags])
    axes[0][0].set(ylabel=f"weight, λ = {analysis.entropy_lambda:g}", ylim=(0, 1))
    axes[0][0].legend(fontsize="small")
    return figure


def _draw_weights(axis: Axes, analysis: EntropyAnalysis, levels: Sequence[Level], factor: float) -> None:
    values = [factor * level.value for level in levels]
    for branch in analysis.branches:
        low, high = zip(*(level.quartiles[branch] for level in levels), strict=True)
        axis.fill_between(values, low, high, color=COLOURS[branch], alpha=0.15, linewidth=0)
        axis.plot(values, [level.weights[branch] for level in levels], "o-", color=COLOURS[branch], label=branch)
    axis.set(ylim=(0, 1.03))
    axis.grid(alpha=0.3)


def _draw_scores(axis: Axes, analysis: EntropyAnalysis, levels: Sequence[Level], factor: float) -> None:
    values = [factor * level.value for level in levels]
    for branch in analysis.branches:
        scores = [level.probe_scores[branch] for level in levels]
        axis.plot(values, scores, "o-", color=COLOURS[branch], label=f"{branch} probe")
    axis.plot(values, [level.teacher_score for level in levels], "s--", color="tab:gray", label="teacher")
    axis.set(ylim=(0, 1.03))
    axis.grid(alpha=0.3)


def _panels(rows: int, columns: int, **options) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `(rows, columns)`."""
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
