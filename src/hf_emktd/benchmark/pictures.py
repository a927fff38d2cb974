"""Learning curves beside final numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .report import Report, RowReport
from .suites import Row


def draw_suite(report: Report, rows: Sequence[Row], path: Path) -> None:
    """Left the mean validation metric of each row by epoch, right its final number on test, every seed a dot."""
    reports = [report.rows[row.name] for row in rows if report.rows[row.name].runs]
    height = max(3.0, 0.35 * len(reports) + 1)
    figure, (curves, finals) = plt.subplots(1, 2, figsize=(11, height), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for index, row in enumerate(reports):
        colour = colours[index % len(colours)]
        epochs, means = learning_curve(row, report.metrics[0])
        curves.plot(epochs, 100 * means, color=colour, marker="o", markersize=3)
        scores = 100 * np.array(list(row.scores[report.metrics[0]].values()))
        finals.plot(scores, [index] * len(scores), "o", color=colour, alpha=0.6)
        finals.plot(scores.mean(), index, "|", color="black", markersize=18)
    teacher = report.teacher.get("both", {}).get(report.metrics[0])
    if teacher is not None:
        finals.axvline(100 * teacher, color="tab:gray", linestyle="--", label="teacher")
        finals.legend()
    curves.set(xlabel="epoch", ylabel=f"validation {report.metrics[0]} (%)")
    finals.set(yticks=range(len(reports)), yticklabels=[row.row.name for row in reports])
    finals.set(xlabel=f"test {report.metrics[0]} (%)")
    finals.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def learning_curve(row: RowReport, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and the mean over seeds of the validation metric after each; empty where no run was evaluated."""
    by_epoch: dict[float, list[float]] = {}
    for run in row.runs.values():
        for entry in run.history:
            if f"eval_{metric}" in entry:
                by_epoch.setdefault(entry["epoch"], []).append(entry[f"eval_{metric}"])
    epochs = sorted(by_epoch)
    return np.array(epochs), np.array([np.mean(by_epoch[epoch]) for epoch in epochs])
