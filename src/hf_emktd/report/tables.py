"""The tables of a report, as text by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.clip_source import KINDS
from ..hub import DistillationSummary, EvaluationResult
from ..hub.distillation_summary import CONTROLS, METRICS
from ..hub.model_card import CONTROL_METRICS, METRIC_NAMES, flat_settings, protocol_of, setting_text
from .at_hand import Cost
from .class_changes import ClassChange
from .left_out import LeftOut

NONE = "\N{EN DASH}"
MEGA, GIGA = 10**6, 10**9
# Settings of an objective that have a column of their own, or say nothing beside it.
SHOWN_SETTINGS = ("name", "weight")


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `texts` columns are text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


def models_table(summary: DistillationSummary) -> Table:
    """Who taught whom."""
    rows = [
        [role, facts.title, facts.architecture or NONE, f"{facts.parameters:,}"]
        for role, facts in (("Teacher", summary.teacher), ("Student" if summary.teacher else "Model", summary.student))
        if facts is not None
    ]
    return Table(["", "name", "architecture", "parameters"], rows, texts=3)


def objectives_table(summary: DistillationSummary) -> Table:
    """The terms of the loss with their weights, the task's own first."""
    rows = [["task", "the labels", setting_text(summary.hyper_parameters.get("task_weight", 1.0)) or NONE]]
    for one in summary.objectives:
        settings = {name: value for name, value in one.settings.items() if name not in SHOWN_SETTINGS}
        told = [one.name, *(f"{name}: {setting_text(value)}" for name, value in flat_settings(settings).items())]
        weight = setting_text(one.settings.get("weight")) or NONE
        rows.append([str(one.settings.get("name", one.name)), "; ".join(told), weight])
    return Table(["term", "what it is", "weight"], rows, texts=2)


def data_table(summary: DistillationSummary, clips: Mapping[str, Any] | LeftOut) -> Table:
    """By split the clips that were named, used, and out of order by kind."""
    data = summary.data
    named = {} if isinstance(clips, LeftOut) else clips.get("rows", {})
    kinds = [kind for kind in KINDS if any(kind in counts for counts in data.left_out.values())]
    rows = []
    for split in dict.fromkeys([*data.clips, *named]):
        counts = data.left_out.get(split, {})
        used = [named.get(split), data.clips.get(split), *(counts.get(kind, 0) for kind in kinds)]
        rows.append([split, *(NONE if count is None else f"{count:,}" for count in used)])
    return Table(["split", "in the table", "used", *kinds], rows)


def results_table(results: Sequence[EvaluationResult]) -> Table:
    """A row for each metric of each condition."""
    taught = any(result.teacher_metrics for result in results)
    rows = []
    for result in results:
        names = (*METRICS, *CONTROL_METRICS) if result.modality in CONTROLS else METRICS
        for name in names:
            if name in result.metrics:
                condition = f"{result.split}: {protocol_of(result)}"
                told = any(row[0] == condition for row in rows)
                rows.append(["" if told else condition, METRIC_NAMES[name], *_compared(result, name)])
    header = ["given", "metric", "student" if taught else "model", "teacher", "retention"]
    columns = slice(None) if taught else slice(3)
    return Table(header[columns], [row[columns] for row in rows], texts=2)


def costs_table(summary: DistillationSummary, student: Cost | LeftOut, teacher: Cost | LeftOut) -> Table:
    """Size and latency of student and teacher, and one over the other; rows that neither has a number for left out."""
    facts = (summary.student, summary.teacher)
    lines = [
        ("parameters", "parameters", facts, "{:,}".format),
        ("of the picture encoder", "visual_parameters", facts, "{:,}".format),
        ("multiply-accumulates a clip", "macs", facts, _macs),
        ("weights (MB)", "weight_bytes", (student, teacher), _megabytes),
        ("latency of a clip (ms)", "latency_ms", (student, teacher), _milliseconds),
    ]
    rows = []
    for title, field, sides, shown in lines:
        own, other = (None if isinstance(side, LeftOut | None) else getattr(side, field) for side in sides)
        if own is not None or other is not None:
            cells = [NONE if value is None else shown(value) for value in (own, other)]
            rows.append([title, *cells, f"{own / other:.1%}" if own is not None and other else NONE])
    if summary.teacher is None:
        return Table(["", "model"], [row[:2] for row in rows])
    return Table(["", "student", "teacher", "student / teacher"], rows)


def branches_table(differences: Mapping[str, float], weights: Mapping[str, float]) -> Table:
    """Of a clip by branch how far the Gram matrices are apart and, where entropies are known, what it weighs."""
    rows = [
        [branch, f"{value:.2f}", *([f"{weights[branch]:.2f}" if branch in weights else NONE] if weights else [])]
        for branch, value in differences.items()
    ]
    return Table(["branch", "Gram difference", *(["weight"] if weights else [])], rows)


def classes_table(changes: Sequence[ClassChange]) -> Table:
    rows = [
        [one.label, f"{one.clips}", f"{one.teacher:.1%}", f"{one.student:.1%}", _points(one.change)] for one in changes
    ]
    return Table(["class", "clips", "teacher", "student", "points"], rows)


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Names and values that are not empty."""
    told = {name: setting_text(value) for name, value in flat_settings(dict(settings)).items()}
    return Table(["setting", "value"], [[name, text] for name, text in told.items() if text], texts=2)


def metric_text(name: str, value: float | None) -> str:
    """In %, but d' as it is."""
    if value is None:
        return NONE
    return f"{value:.2f}" if name == "d_prime" else f"{value:.1%}"


def _compared(result: EvaluationResult, name: str) -> list[str]:
    retained = result.retention.get(name)
    values = [metric_text(name, metrics.get(name)) for metrics in (result.metrics, result.teacher_metrics)]
    return [*values, NONE if retained is None else f"{retained:.1%}"]


def divergence_text(nats: float) -> str:
    """Three decimals, which is where answers stop to differ."""
    return "under 0.001" if nats < 0.001 else f"{nats:.3f}"


def _points(share: float) -> str:
    points = f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
    return points if points.strip("+\N{MINUS SIGN}") != "0.0" else "0.0"


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def _macs(value: int) -> str:
    return f"{value / GIGA:.2f} G" if value >= GIGA else f"{value / MEGA:.1f} M"


def _megabytes(value: int) -> str:
    return f"{value / MEGA:.2f}" if value < 10 * MEGA else f"{value / MEGA:,.0f}"
