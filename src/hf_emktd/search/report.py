"""What a search found, to read and to keep: a Markdown table, JSON and a picture."""

from __future__ import annotations

import json
import math
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure

from .suggestion import Suggestion

GIGA, MEGA = 10**9, 10**6


def format_table(suggestions: Sequence[Suggestion], teacher_parameters: int) -> str:
    """
    Markdown, the best student first: the fields in which students differ, what they cost and how they score; a line
    below names the fields in which all agree.
    """
    fields = [suggestion.student.candidate.fields for suggestion in suggestions]
    differing = [name for name in fields[0] if any(each[name] != fields[0][name] for each in fields)]
    header = [*differing, "parameters", "of the teacher", "MACs", "ms", "MB", "score", "clips", "classes"]
    lines = [header, ["---:"] * len(header)]
    for suggestion, own in zip(suggestions, fields, strict=True):
        values = [json.dumps(own[name]) for name in differing]
        lines.append([*values, *_costs(suggestion, teacher_parameters), *_scores(suggestion)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    same = ", ".join(f"{name}={json.dumps(value)}" for name, value in fields[0].items() if name not in differing)
    return f"{table}\n\nThe same in all: {same}." if same else table


def rivals(suggestions: Sequence[Suggestion]) -> list[Suggestion]:
    """The first student and those that its score is not clearly above, the one with most parameters first."""
    first = suggestions[0].score
    alike = [suggestion for suggestion in suggestions if not first.is_above(suggestion.score)]
    return sorted(alike, key=lambda suggestion: -suggestion.student.candidate.parameters)


def distill_command(suggestion: Suggestion, teacher: str, options: Sequence[str] = ()) -> str:
    """The command that distils a suggested student, with further `options`."""
    words = ["python", "scripts/distill.py", "--teacher", teacher, *options]
    return shlex.join([*words, "--student_fields", *suggestion.student.candidate.student_fields])


def to_dict(suggestion: Suggestion) -> dict[str, Any]:
    """Plain values that JSON can hold."""
    student, score = suggestion.student, suggestion.score
    return {
        "student_fields": student.candidate.student_fields,
        "parameters": student.candidate.parameters,
        "macs": student.macs,
        "latency_ms": student.latency_ms,
        "memory_mb": student.memory_mb,
        "score": {"total": score.total, "deviation": score.deviation, **asdict(score)},
    }


def measuring_conditions(device: str, threads: int | None) -> dict[str, Any]:
    """What latency and memory depend on beside the student."""
    kind = torch.device(device).type
    return {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else platform.processor() or platform.machine(),
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": "float32",
        "clips": 1,
    }


def draw(suggestions: Sequence[Suggestion], path: Path) -> None:
    """Score against latency, the first student marked."""
    latencies = [suggestion.student.latency_ms for suggestion in suggestions]
    totals = [suggestion.score.total for suggestion in suggestions]
    parameters = [suggestion.student.candidate.parameters for suggestion in suggestions]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    areas = [20 + 180 * count / max(parameters) for count in parameters]
    axes.errorbar(
        latencies,
        totals,
        yerr=[suggestion.score.deviation for suggestion in suggestions],
        fmt="none",
        ecolor="lightgray",
        zorder=0,
    )
    axes.scatter(latencies, totals, s=areas, alpha=0.6)
    axes.plot(latencies[0], totals[0], "*", color="tab:red", markersize=12, label="first")
    axes.set(
        title="area: parameters; bars: deviation over random weights",
        xlabel="latency of one clip (ms)",
        ylabel="training-free score (higher is better)",
    )
    axes.legend()
    figure.savefig(path, dpi=150)


def _costs(suggestion: Suggestion, teacher_parameters: int) -> list[str]:
    student = suggestion.student
    return [
        f"{student.candidate.parameters:,}",
        f"{student.candidate.parameters / teacher_parameters:.1%}",
        f"{student.macs / GIGA:.2f} G" if student.macs >= GIGA else f"{student.macs / MEGA:.2f} M",
        f"{student.latency_ms:.1f}",
        "" if student.memory_mb is None else f"{student.memory_mb:.1f}",
    ]


def _scores(suggestion: Suggestion) -> list[str]:
    score = suggestion.score
    total = f"{score.total:.4f}" if math.isnan(score.deviation) else f"{score.total:.4f} ± {score.deviation:.4f}"
    return [total, f"{fmean(score.clips):.5f}", "" if score.classes is None else f"{fmean(score.classes):.4f}"]
