"""All parts of a report, each made from what is there or left out with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from markupsafe import Markup
from transformers.utils import logging

from ..analysis.entropy_plots import draw_entropies
from ..analysis.entropy_report import EntropyAnalysis
from ..distillation.kernels import TokenKernel
from ..hub import DistillationSummary
from ..hub.distillation_summary import SEGMENTATION
from ..hub.model_card import METRIC_NAMES, duration, results_note
from ..training.arguments import DistillationArguments
from ..training.clip_data import DataArguments
from . import tables
from .at_hand import (
    Clips,
    LoadedModel,
    as_teacher,
    load_student,
    load_teacher,
    machine,
    measure_cost,
    open_split,
    with_monitor,
)
from .class_changes import class_changes
from .clip_scores import ClipScores, kernel_of, score_clips
from .curves import draw_losses, draw_validation, draw_weights, read_curves, zero_parts
from .entropies import analyse_teacher, lambda_of
from .left_out import LeftOut, attempt
from .page import render
from .pictures import gradient, to_svg
from .run_record import RunRecord
from .shown_clips import DIFFERENCE_COLOURS, GRAM_COLOURS, ShownClip, show_clips
from .tables import Table

logger = logging.get_logger(__name__)

CARDS, SCENES = 4, 2
# So many classes are shown at once; of more the largest gains and losses.
CLASSES, CHANGES = 24, 10
NO_CLIPS = LeftOut("--no_clips: neither models nor clips were loaded.")
ENTROPY_CAPTIONS = {
    "histogram": "How the entropies of each branch are spread. At the right end a probe knows nothing of the clip.",
    "bins": "Clips in order of a branch's entropy, in bins of equally many: where entropy knows what a branch is "
    "worth, the probe's score and the weight fall together.",
    "sweeps": "Mean weights, with the middle half of the clips shaded, and scores: as a picture is covered (left), as "
    "a sound drowns in noise (right).",
}


@dataclass(frozen=True)
class ReportOptions:
    """
    What a report may cost, and what it is told.

    Args:
        teacher: directory or Hub id of the teacher, where it is not where the run had it.
        monitor: of a place with `entropy_monitor/`, where it is neither with the teacher nor with the run.
        split: whose clips are compared.
        clips: whether models and clips are loaded at all.
        max_clips: so many random clips of the split at most are passed through the models.
        batch_size: clips per forward pass.
        seed: of the choice of clips.
    """

    teacher: str | None = None
    monitor: str | None = None
    split: str = "test"
    clips: bool = True
    max_clips: int = 256
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """A figure of the page and what it shows."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class ClipCard:
    """A clip with what is said of it, by name."""

    clip: ShownClip
    facts: list[tuple[str, str]]
    branches: Table


def make_report(record: RunRecord, options: ReportOptions, data_args: DataArguments) -> str:
    """
    The page of a run: one self-contained HTML document.

    Models and clips are loaded as far as they are at hand; what cannot be made is replaced by its reason, on the page
    and in the log.
    """
    parts = record_parts(record) | loaded_parts(record, options, data_args)
    if parts["segments"]:
        del parts["classes"]
    reasons = dict.fromkeys(part.reason for part in parts.values() if isinstance(part, LeftOut))
    for reason in reasons:
        logger.warning(f"Left out of the report: {reason}")
    return render(parts | {"title": record.title})


def record_parts(record: RunRecord) -> dict[str, Any]:
    """Parts made of the run's files alone."""
    summary = record.summary
    return {
        "summary": summary,
        "segments": not isinstance(summary, LeftOut) and summary.task == SEGMENTATION,
        "lead": attempt(lead, summary),
        "models": attempt(tables.models_table, summary),
        "objectives": attempt(tables.objectives_table, summary),
        "data": attempt(lambda summary: data_part(summary, record.clips), summary),
        "monitor_statistics": attempt(lambda one: one.entropy_statistics, summary),
        "kernel_trials": _or_default(record.results, {}).get("kernel_trials", {}),
        "results": attempt(results_part, summary),
        "curves": attempt(curve_pictures, record.log),
        "zero_parts": attempt(lambda log: zero_parts(read_curves(log)), record.log),
        "environment": attempt(environment_part, summary),
    }


def loaded_parts(record: RunRecord, options: ReportOptions, data_args: DataArguments) -> dict[str, Any]:
    """Parts that need the run's models, and most of them its clips."""
    summary = record.summary
    student = attempt(load_student, record) if options.clips else NO_CLIPS
    teacher = attempt(load_teacher, record, options.teacher) if options.clips else NO_CLIPS
    judge = student if not record.has_teacher and options.teacher is None else teacher
    eye = student if isinstance(teacher, LeftOut) else teacher
    clips = attempt(lambda student, eye: _open(student, eye, data_args, options), student, eye)
    kernel = _or_default(attempt(kernel_of, summary), TokenKernel())
    entropy_lambda = _or_default(attempt(lambda_of, summary), DistillationArguments.entropy_lambda)

    scores = attempt(_score, student, teacher, clips, kernel)
    places = [place for place in (options.monitor, _name(judge), str(record.folder)) if place]
    analysis = attempt(lambda judge, clips: _analyse(judge, places, clips, entropy_lambda), judge, clips)
    shown = attempt(_show, scores, student, teacher, clips, kernel)
    costs = [attempt(measure_cost, one) for one in (student, teacher)]
    return {
        "costs": attempt(lambda summary: tables.costs_table(summary, *costs), summary),
        "cost_reasons": [
            f"{who}: {one.reason}"
            for who, one in zip(("student", "teacher"), costs, strict=True)
            if isinstance(one, LeftOut) and (who == "student" or judge is not student)
        ],
        "machine": machine(),
        "clips": attempt(_clips_line, clips, scores),
        "classes": attempt(classes_part, scores, clips),
        "entropies": attempt(entropy_part, analysis),
        "faithful": attempt(lambda *parts: faithful_part(*parts, analysis), scores, shown, clips),
        "grams": attempt(gram_part, scores, shown),
        "kernel": kernel,
        "gram_colours": gradient(GRAM_COLOURS),
        "difference_colours": gradient(DIFFERENCE_COLOURS),
    }


def lead(summary: DistillationSummary) -> dict[str, Any]:
    """What the page begins with: how the model was made, and the numbers that matter most."""
    title, teacher, data = summary.student.title, summary.teacher, summary.data
    on = f" on {data.name}" if data else ""
    if summary.distilled:
        text = f"{title} was distilled from {teacher.title}{on}."
    elif teacher is not None:
        text = f"{title} was trained on labels alone{on}, for comparison with what {teacher.title} teaches."
    else:
        text = f"{title} was trained on labels{on}, without a teacher."
    return {"text": text, "numbers": [*_main_results(summary), *_ratios(summary)]}


def data_part(summary: DistillationSummary, clips: Mapping[str, Any] | LeftOut) -> Table:
    if summary.data is None:
        raise ValueError("distillation.json says nothing of the clips.")
    return tables.data_table(summary, clips)


def results_part(summary: DistillationSummary) -> dict[str, Any]:
    if not summary.results:
        raise ValueError("the model has not been evaluated; scripts/evaluate.py enters results here.")
    return {"table": tables.results_table(summary.results), "note": results_note(summary)}


def curve_pictures(log: list[dict[str, Any]]) -> list[Picture]:
    """Losses, branch weights and validation metrics, as far as they were logged."""
    curves = read_curves(log)
    drawn = {
        "losses": (draw_losses(curves), "The loss and the parts it is the sum of, each with its weight in it."),
        "weights": (draw_weights(curves), "Mean entropy weight of each branch over the clips of a step."),
        "validation": (draw_validation(curves), "Metrics on the validation clips."),
    }
    return [Picture(to_svg(figure, name), caption) for name, (figure, caption) in drawn.items() if figure is not None]


def environment_part(summary: DistillationSummary) -> dict[str, Any]:
    return {
        "command": summary.command,
        "seconds": duration(summary.training_seconds),
        "settings": tables.settings_table(summary.hyper_parameters),
        "versions": tables.settings_table(summary.environment),
    }


def classes_part(scores: ClipScores, clips: Clips) -> dict[str, Any]:
    """Gains and losses by class; of many classes the largest, and all in a fold."""
    if scores.labels is None:
        raise ValueError("a model of masks tells no classes apart.")
    changes = class_changes(scores, clips.data.label_names)
    shown = changes if len(changes) <= CLASSES else [*changes[:CHANGES], *changes[-CHANGES:]]
    largest = max(abs(one.change) for one in shown) or 1.0
    return {
        "shown": tables.classes_table(shown),
        "bars": [one.change for one in shown],
        "widths": [50 * abs(one.change) / largest for one in shown],
        "whole": tables.classes_table(changes) if len(shown) < len(changes) else None,
    }


def entropy_part(analysis: EntropyAnalysis) -> dict[str, Any]:
    return {
        "pictures": [
            Picture(to_svg(figure, f"entropy{name}"), ENTROPY_CAPTIONS[name])
            for name, figure in draw_entropies(analysis).items()
        ],
        "analysis": analysis,
        "clips": len(analysis.readings.teacher_scores),
    }


def faithful_part(
    scores: ClipScores, shown: dict[int, ShownClip], clips: Clips, analysis: EntropyAnalysis | LeftOut
) -> dict[str, Any]:
    """The clips whose answers are nearest to the teacher's and farthest from them."""
    weights = {} if isinstance(analysis, LeftOut) else analysis.readings.weights(analysis.entropy_lambda)
    most, least = _ends(scores)
    return {
        title: [_card(shown[place], scores, clips, weights) for place in places]
        for title, places in (("Most faithful", most), ("Least faithful", least))
    }


def gram_part(scores: ClipScores, shown: dict[int, ShownClip]) -> list[tuple[str, ShownClip]]:
    """The most faithful clip, one in the middle and the least faithful."""
    order = scores.order
    chosen = {"most faithful": order[0], "median": order[len(order) // 2], "least faithful": order[-1]}
    samples = {int(place): title for title, place in reversed(chosen.items())}
    if not any(shown[place].grams for place in samples):
        raise ValueError("student and teacher have no branch in common.")
    return [(title, shown[place]) for place, title in reversed(samples.items())]


def _open(student: LoadedModel, eye: LoadedModel, data_args: DataArguments, options: ReportOptions) -> Clips:
    sizes = (options.max_clips, options.seed, options.batch_size)
    return open_split(student, data_args, options.split, eye.processor, *sizes)


def _score(student: LoadedModel, teacher: LoadedModel, clips: Clips, kernel: TokenKernel) -> ClipScores:
    return score_clips(student, as_teacher(teacher, student), clips, teacher.processor, kernel)


def _show(
    scores: ClipScores, student: LoadedModel, teacher: LoadedModel, clips: Clips, kernel: TokenKernel
) -> dict[int, ShownClip]:
    places = [*chain(*_ends(scores)), scores.order[len(scores.order) // 2]]
    return show_clips(places, student, as_teacher(teacher, student), clips, teacher.processor, kernel)


def _analyse(judge: LoadedModel, places: list[str], clips: Clips, entropy_lambda: float) -> EntropyAnalysis:
    return analyse_teacher(judge, with_monitor(judge, *places), clips, entropy_lambda)


def _ends(scores: ClipScores) -> tuple[list[int], list[int]]:
    """Places of the most and of the least faithful clips; fewer where there are few, none twice."""
    order = [int(place) for place in scores.order]
    count = min(CARDS if scores.labels is not None else SCENES, max(1, len(order) // 2))
    return order[:count], order[count:][-count:][::-1]


def _card(clip: ShownClip, scores: ClipScores, clips: Clips, weights: Mapping[str, np.ndarray]) -> ClipCard:
    differences = {branch: values[clip.place] for branch, values in scores.gram_differences.items()}
    own = {branch: values[clip.place] for branch, values in weights.items()}
    return ClipCard(clip, _facts(scores, clip.place, clips), tables.branches_table(differences, own))


def _facts(scores: ClipScores, place: int, clips: Clips) -> list[tuple[str, str]]:
    """What a card says of a clip's answers."""
    names, facts = clips.data.label_names, []
    if scores.labels is not None:
        facts.append(("label", names[scores.labels[place]]))
        for who, given in (("teacher", scores.teacher_answers), ("student", scores.student_answers)):
            index, probability = given[place]
            facts.append((who, f"{names[int(index)]} ({probability:.0%})"))
    else:
        facts += [("MJ of the teacher", tables.metric_text("MJ", _known(scores.teacher_scores[place])))]
        facts += [("MJ of the student", tables.metric_text("MJ", _known(scores.student_scores[place])))]
    return [*facts, ("KL (nats)", tables.divergence_text(scores.divergences[place]))]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _main_results(summary: DistillationSummary) -> list[tuple[str, str]]:
    """The first metric of the model with all that it takes."""
    name = "MJ" if summary.task == SEGMENTATION else "accuracy"
    result = next((one for one in summary.results if name in one.metrics), None)
    if result is None:
        return []
    value, other = (metrics.get(name) for metrics in (result.metrics, result.teacher_metrics))
    numbers = [(tables.metric_text(name, value), f"{METRIC_NAMES[name]}, {result.split}")]
    if name in result.retention:
        numbers.append((f"{result.retention[name]:.1%}", f"of the teacher's {tables.metric_text(name, other)}"))
    return numbers


def _ratios(summary: DistillationSummary) -> list[tuple[str, str]]:
    """Size, of the teacher's where there is one."""
    ours, theirs = summary.student, summary.teacher
    if theirs is None:
        return [(f"{ours.parameters:,}", "parameters")]
    numbers = [(f"{ours.parameters / theirs.parameters:.1%}", "of the teacher's parameters")]
    if ours.macs and theirs.macs:
        numbers.append((f"{ours.macs / theirs.macs:.1%}", "of its multiply-accumulates"))
    return numbers


def _clips_line(clips: Clips, scores: ClipScores) -> str:
    whole, used = len(clips.data.split(clips.split)), len(scores.divergences)
    chosen = "all" if whole == used else f"{used:,} random ones of {whole:,}"
    return f"{chosen} clips of {clips.data.args.dataset}, split {clips.split}"


def _name(loaded: LoadedModel | LeftOut) -> str | None:
    return None if isinstance(loaded, LeftOut) else loaded.name


def _or_default(value: Any, default: Any) -> Any:
    return default if isinstance(value, LeftOut) else value
