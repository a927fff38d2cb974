"""What a benchmark found: results.json, Markdown tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..hub.distillation_summary import plain
from ..training.finish import command_line
from ..whole_files import write_whole
from .runner import Benchmark
from .runs import Run
from .statistics import PairedDifference, mean_and_deviation
from .suites import EVENTS, MASKS, PAPER_COLUMNS, PAPER_TEACHERS, Row
from .tuning import settings

RESULTS_NAME, TABLE_NAME = "results.json", "table.md"
# Beside the metrics of masks, what a model does with another clip's sound and in silence.
CONTROLS = {EVENTS: (), MASKS: (("swapped_sound", "MJ"), ("silence", "mask_share"))}
CONTROL_TITLES = {EVENTS: (), MASKS: ("MJ, other sound", "claimed in silence")}


@dataclass
class RowReport:
    """
    All that is known of a row.

    Args:
        row: the row.
        chosen: by option the value that validation chose.
        runs: by seed those that ended well.
        failed: how many did not.
        scores: by metric, or control, its value by seed.
    """

    row: Row
    chosen: dict[str, str]
    runs: dict[int, Run]
    failed: int
    scores: dict[str, dict[int, float]] = field(default_factory=dict)

    def mean(self, name: str) -> float | None:
        """Of a metric over the seeds."""
        values = list(self.scores[name].values())
        return mean_and_deviation(values)[0] if values else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Training with its evaluations, mean over seeds and epochs."""
        values = [run.results["seconds"] / run.history[-1]["epoch"] for run in self.runs.values()]
        return mean_and_deviation(values)[0] if values else None

    @property
    def peak_memory(self) -> int | None:
        """Bytes, the most of any seed."""
        return max((run.record["peak_memory"] for run in self.runs.values()), default=None)


class Report:
    """
    Reads the runs of a benchmark that are there, and writes what they say.

    Args:
        benchmark: the benchmark, with its choices.
        suites: by name the rows that are told.
        seeds: so many of each row.
        reference: *optional*, name of the row with which all are compared, instead of each row's own.
    """

    def __init__(
        self, benchmark: Benchmark, suites: dict[str, Sequence[Row]], seeds: int, reference: str | None = None
    ) -> None:
        self.benchmark = benchmark
        self.suites = suites
        self.seeds = seeds
        self.reference = reference
        self.metrics = benchmark.metrics
        self.rows = {row.name: self._read(row) for rows in suites.values() for row in rows}
        self.teacher = self._teacher_results()

    def save(self) -> None:
        """Writes `results.json` and `table.md`."""
        folder = self.benchmark.output_dir
        write_whole(folder / RESULTS_NAME, json.dumps(plain(self.to_dict()), indent=2, allow_nan=False) + "\n")
        write_whole(folder / TABLE_NAME, self.to_markdown() + "\n")

    def difference(self, report: RowReport) -> PairedDifference | None:
        """Of the metric that decides, to the row's reference, seed by seed; `None` where that is not told."""
        name = self._reference_of(report)
        if name == report.row.name or name not in self.rows:
            return None
        return PairedDifference.of(report.scores[self.metrics[0]], self.rows[name].scores[self.metrics[0]])

    def retention(self, report: RowReport) -> float | None:
        """Mean of the metric that decides, over that of the teacher with sound and picture."""
        own, teacher = report.mean(self.metrics[0]), self.teacher.get("both", {}).get(self.metrics[0])
        return own / teacher if own is not None and teacher else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        choices = self.benchmark.choices
        return {
            "command": command_line(),
            "task": self.benchmark.task,
            "suites": {name: [row.name for row in rows] for name, rows in self.suites.items()},
            "teacher": {"model": self.benchmark.teacher, "results": self.teacher},
            "tuning": {name: {**asdict(choice), "chosen": choice.value} for name, choice in choices.items()},
            "rows": {name: self._row_to_dict(report) for name, report in self.rows.items()},
        }

    def to_markdown(self) -> str:
        """A table for each suite, what validation said, and how to read them."""
        parts = [f"## {name}\n\n{self._table(rows)}" for name, rows in self.suites.items()]
        if self.benchmark.choices:
            parts.append(f"## What validation said\n\n{self._tuning_table()}")
        return "\n\n".join([*parts, self._note()])

    def _read(self, row: Row) -> RowReport:
        runs = {seed: self.benchmark.student_run(row, seed) for seed in range(self.seeds)}
        finished = {seed: run for seed, run in runs.items() if run.finished}
        failed = sum(run.folder in self.benchmark.executor.failed for run in runs.values())
        report = RowReport(row, settings(row, self.benchmark.choices), finished, failed)
        wanted = [(metric, row.modality, metric) for metric in self.metrics]
        wanted += [(condition, condition, metric) for condition, metric in CONTROLS[self.benchmark.task]]
        results = {seed: run.results["results"] for seed, run in finished.items()}
        for name, condition, metric in wanted:
            values = {seed: result.get(condition, {}).get(metric) for seed, result in results.items()}
            report.scores[name] = {seed: value for seed, value in values.items() if value is not None}
        return report

    def _teacher_results(self) -> dict[str, dict[str, float]]:
        """By what it was given, from the students' runs: on their split, as they were evaluated."""
        results: dict[str, dict[str, float]] = {}
        for report in self.rows.values():
            for run in report.runs.values():
                results |= run.results["teacher_results"]
        return results

    def _row_to_dict(self, report: RowReport) -> dict[str, Any]:
        difference = self.difference(report)
        return {
            "options": report.chosen,
            "scores": report.scores,
            "means": {name: report.mean(name) for name in report.scores},
            "retention": self.retention(report),
            "difference": None if difference is None else {"to": self._reference_of(report), **asdict(difference)},
            "seconds_per_epoch": report.seconds_per_epoch,
            "peak_memory": report.peak_memory,
            "failed": report.failed,
            "paper": report.row.paper,
            "runs": {seed: _run_to_dict(run) for seed, run in report.runs.items()},
        }

    def _reference_of(self, report: RowReport) -> str:
        return self.reference or report.row.reference

    def _table(self, rows: Sequence[Row]) -> str:
        task = self.benchmark.task
        references = sorted({self._reference_of(self.rows[row.name]) for row in rows})
        several = len(references) > 1
        compared = "difference" if several else f"difference to {references[0]}"
        header = ["method", "options", *self.metrics, "retention", f"{compared} (95 %)"]
        header += [*CONTROL_TITLES[task], "s / epoch", "memory", f"*the paper, not ours: {PAPER_COLUMNS[task]}*"]
        lines = [self._teacher_line(), *(self._line(self.rows[row.name], named=several) for row in rows)]
        return _markdown(header, lines, texts=2)

    def _teacher_line(self) -> list[str]:
        both = self.teacher.get("both", {})
        controls = [_control(self.teacher.get(name, {}).get(metric)) for name, metric in CONTROLS[self.benchmark.task]]
        metrics = [_percent(both.get(metric)) for metric in self.metrics]
        paper = f"*{PAPER_TEACHERS[self.benchmark.task]}*"
        return ["teacher", "", *metrics, "100.0 %", "", *controls, "", "", paper]

    def _line(self, report: RowReport, named: bool) -> list[str]:
        """Cells of a row; with the name of what it is compared with, if `named`."""
        controls = [_control(report.mean(name)) for name, _ in CONTROLS[self.benchmark.task]]
        memory = report.peak_memory
        return [
            report.row.name,
            ", ".join(f"{option.removeprefix('--')} {value}" for option, value in report.chosen.items()) or "defaults",
            self._score(report),
            _percent(report.mean(self.metrics[1])),
            _percent(self.retention(report)),
            self._interval(report, named),
            *controls,
            "" if report.seconds_per_epoch is None else f"{report.seconds_per_epoch:.1f}",
            "" if memory is None else f"{memory / 1e9:.2f} GB",
            f"*{report.row.paper}*" if report.row.paper else "",
        ]

    def _score(self, report: RowReport) -> str:
        """Mean and deviation of the metric that decides, or why there is none."""
        values = list(report.scores[self.metrics[0]].values())
        if not values:
            return "failed" if report.failed else "not run yet"
        mean, deviation = mean_and_deviation(values)
        text = f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}") + " %"
        if report.failed:
            text += f" ({len(values)} of {self.seeds} seeds, {report.failed} failed)"
        elif len(values) < self.seeds:
            text += f" ({len(values)} of {self.seeds} seeds)"
        return text

    def _interval(self, report: RowReport, named: bool) -> str:
        difference = self.difference(report)
        if difference is None:
            return ""
        mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
        text = f"{mean:+.1f}" if difference.seeds == 1 else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        return f"{text} to {self._reference_of(report)}" if named else text

    def _tuning_table(self) -> str:
        lines = []
        for name, choice in self.benchmark.choices.items():
            scores = [
                f"{value}: {100 * score:.1f}".join(("**", "**") if value == choice.value else ("", ""))
                for value, (score, _) in choice.scores.items()
            ]
            lines.append([name, choice.option.removeprefix("--"), ", ".join(scores) or "failed"])
        return _markdown(["method", "option", f"{self.metrics[0]} of each value (%)"], lines, texts=3)

    def _note(self) -> str:
        runs = [run for report in self.rows.values() for run in report.runs.values()]
        sentences = [
            f"Means and standard deviations over {self.seeds} seeds. Differences in points, paired seed by seed, with "
            "percentile bootstrap intervals over the seeds, which are narrow for so few: three seeds cover the true "
            "mean 75 times in 100, five 83 times."
        ]
        if runs:
            versions = sorted({str(run.record["code"]) for run in runs})
            hashes = sorted({str(run.summary["data"]["manifest_hash"])[:12] for run in runs})
            parameters = sorted({f"{run.summary['student']['parameters']:,}" for run in runs})
            sentences.append(
                f"Students of {', '.join(parameters)} parameters, a teacher of "
                f"{runs[0].summary['teacher']['parameters']:,}. Clips {', '.join(hashes)}, code "
                f"{', '.join(versions)}, on {', '.join(sorted({run.record['device'] for run in runs}))} with "
                f"{', '.join(sorted({str(run.record['threads']) for run in runs}))} threads a run. The paper's column "
                "holds its own numbers, on its own data."
            )
        return " ".join(sentences)


def _run_to_dict(run: Run) -> dict[str, Any]:
    summary = run.summary
    return {
        "command": summary["command"],
        "folder": str(run.folder),
        "manifest_hash": summary["data"]["manifest_hash"],
        "versions": summary["environment"],
        "parameters": summary["student"]["parameters"],
        "training_seconds": run.results["seconds"],
        "results": run.results["results"],
        **run.record,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _control(value: float | None) -> str:
    """Controls are near nothing where all is well."""
    return "" if value is None else f"{100 * value:.2f} %"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
    """A table whose first `texts` columns are text, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))
