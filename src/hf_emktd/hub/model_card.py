"""The model card: every fact of a [`DistillationSummary`] as metadata and text, nothing that is not in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from transformers.utils import logging

from ..plain_text import in_code, in_markdown, in_one_line, visible
from ..whole_files import write_whole
from .distillation_summary import (
    CLASSIFICATION,
    CONTROLS,
    METRICS,
    SEGMENTATION,
    DataFacts,
    DistillationSummary,
    EvaluationResult,
    hub_id_of,
)

logger = logging.get_logger(__name__)

CARD_NAME = "README.md"
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "mAP": "mAP",
    "mAUC": "mAUC",
    "d_prime": "d'",
    "MJ": "MJ",
    "MF": "MF",
    "mask_share": "Marked",
    "peak_probability": "Peak",
}
# What shows in a control that a model does not listen.
CONTROL_METRICS = ("mask_share", "peak_probability")
_GIVEN = {
    "both": "sound and picture",
    "audio": "sound only",
    "visual": "picture only",
    "swapped_sound": "picture and the sound of another clip",
    "silence": "picture and silence",
}
_SCORES = {"softmax": ", over softmax", "dataset": ", one threshold for all clips"}


class TaskWords(NamedTuple):
    """What a card says of a task and of every model for it; `other_inputs` are those a card says were not measured."""

    pipeline: str
    tags: list[str]
    name: str
    hub_metrics: list[str]
    model: str
    doings: str
    metrics_note: str
    knowledge: str
    limits: list[str]
    other_inputs: tuple[str, ...]


NOT_CALIBRATED = "Softmax scores are not calibrated probabilities."

# The Hub has no audio-visual task; of its tasks these are the ones with the nearest input, or output.
TASK_WORDS = {
    CLASSIFICATION: TaskWords(
        pipeline="video-classification",
        tags=["audio-visual", "audio-classification", "emktd"],
        name="Audio-visual event classification",
        hub_metrics=["accuracy"],
        model="An audio-visual event classifier",
        doings="It takes a clip's sound (log-mel spectrogram), its picture (one frame), or both, and names the event.",
        metrics_note="Accuracy, mAP and mAUC in %. mAP and mAUC are means over the classes that occur in the split",
        knowledge="It knows its classes{data} and no other: anything else in a clip is given one of their names.",
        limits=[
            "It hears the beginning of a clip and sees single frames: motion and later sound are lost on it.",
            NOT_CALIBRATED,
        ],
        other_inputs=("audio", "visual"),
    ),
    SEGMENTATION: TaskWords(
        pipeline="image-segmentation",
        tags=["audio-visual", "audio-visual-segmentation", "emktd"],
        name="Audio-visual segmentation",
        hub_metrics=["mean_iou"],
        model="A model for sound-guided segmentation",
        doings="It takes one frame of each second of a clip with its sound and marks the pixels of what sounds.",
        metrics_note="In %. MJ is the mean IoU of the frames; MF is their F-measure (beta squared 0.3) at the best "
        "threshold, which is chosen for each clip where nothing else is said",
        knowledge="It knows the kinds of things it was trained on{data} and no other: others are missed or mistaken.",
        limits=[
            "It looks at one frame of each second, each with about a second of sound and by itself: motion, and what "
            "happens between the frames, are lost on it.",
            "It marks what sounds but does not name it, nor tell one thing that sounds from another.",
            "Its probabilities are not calibrated.",
        ],
        other_inputs=CONTROLS,
    ),
}


# Of a classifier that only hears or only sees, what is said otherwise.
ONE_MODALITY = {
    "audio": {
        "pipeline": "audio-classification",
        "tags": ["emktd"],
        "name": "Audio event classification",
        "model": "A classifier of events by their sound",
        "doings": "It takes a clip's sound (log-mel spectrogram) and names the event.",
        "limits": ["It hears the beginning of a clip: later sound is lost on it.", NOT_CALIBRATED],
        "other_inputs": (),
    },
    "visual": {
        "pipeline": "image-classification",
        "tags": ["emktd"],
        "name": "Visual event classification",
        "model": "A classifier of events by their picture",
        "doings": "It takes a clip's picture (one frame) and names the event.",
        "limits": ["It sees single frames: motion is lost on it.", NOT_CALIBRATED],
        "other_inputs": (),
    },
}


class StudentCard(ModelCard):
    """Card of a distilled student, or of a teacher where the summary names none."""

    default_template_path = Path(__file__).parent / "student_card_template.md"

    @classmethod
    def from_summary(cls, summary: DistillationSummary) -> StudentCard:
        """
        Args:
            summary ([`DistillationSummary`]):
                What is known; what is not is left out of the card.
        """
        card = cls.from_template(
            card_metadata(summary),
            summary=summary,
            words=words_of(summary),
            segments=summary.task == SEGMENTATION,
            modality=summary.student.modality,
            size_ratio=_size_ratio(summary),
            teacher_link=_teacher_link(summary),
            title=in_markdown(summary.student.title),
            base_title=in_one_line(_base_model(summary) or Path(summary.adapter_of or "").name),
            size_table=_size_table(summary),
            results_table=_results_table(summary.results),
            results_note=results_note(summary),
            data_lines=_data_lines(summary.data),
            left_out_table=_left_out_table(summary.data),
            objective_blocks=[
                {"name": objective.name, "table": _settings_table(objective.settings)}
                for objective in summary.objectives
            ],
            entropy_table=_entropy_table(summary.entropy_statistics),
            training_time=duration(summary.training_seconds),
            hyper_parameter_table=_settings_table(summary.hyper_parameters),
            environment_line=", ".join(f"{name} {version}" for name, version in summary.environment.items()),
            limitations=_limitations(summary),
            command=_fenced(summary.command),
            citations=_fenced("\n\n".join(_citations(summary))),
        )
        # sections that are left out leave their blank lines behind
        card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
        return card


def words_of(summary: DistillationSummary) -> TaskWords:
    """What the card says of the student's task and of what it takes."""
    return TASK_WORDS[summary.task]._replace(**ONE_MODALITY.get(summary.student.modality, {}))


def write_card(summary: DistillationSummary, directory: str | os.PathLike[str]) -> None:
    """Writes `README.md`, `distillation.json` and, for a Hub benchmark, `.eval_results/*.yaml` into `directory`.

    Each file is replaced as a whole.
    """
    directory = Path(directory)
    summary.save(directory)
    write_whole(directory / CARD_NAME, str(StudentCard.from_summary(summary)))
    for name, text in eval_result_files(summary).items():
        (directory / name).parent.mkdir(exist_ok=True)
        write_whole(directory / name, text)


def update_results(directory: str | os.PathLike[str], *results: EvaluationResult) -> DistillationSummary:
    """Adds results to a saved model: its `distillation.json` is read, updated and, with the card, written again.

    Raises:
        FileNotFoundError: the directory has no `distillation.json`.
    """
    summary = DistillationSummary.load(directory)
    summary.update_results(*results)
    write_card(summary, directory)
    return summary


def _base_model(summary: DistillationSummary) -> str | None:
    """Of an adapter the model it belongs to, of a student its teacher; `None` where that is not on the Hub."""
    if summary.adapter_of is not None:
        return hub_id_of(summary.adapter_of)
    return summary.teacher.hub_id if summary.distilled else None


def card_metadata(summary: DistillationSummary) -> ModelCardData:
    """The YAML head of the card, results as `model-index`."""
    data, words = summary.data, words_of(summary)
    # a leaderboard would take a control for a result
    results = [result for result in summary.results if data and result.modality not in CONTROLS]
    entries = [entry for result in results for entry in _model_index(result, data, words)]
    return ModelCardData(
        library_name="transformers" if summary.adapter_of is None else "peft",
        license=summary.license,
        pipeline_tag=words.pipeline,
        tags=[*words.tags, *_distillation_tags(summary)],
        base_model=_base_model(summary),
        datasets=[data.hub_id] if data and data.hub_id else None,
        metrics=words.hub_metrics if entries else None,
        model_name=in_one_line(summary.student.title) if entries else None,
        eval_results=entries or None,
    )


def eval_result_files(summary: DistillationSummary) -> dict[str, str]:
    """Accuracy in the form of the Hub's leaderboards: `{".eval_results/<task>.yaml": text}`.

    Empty, and said so in the log, unless the data set is on the Hub and names the benchmark task: an entry without
    both belongs to no leaderboard.
    """
    data = summary.data
    if not data or not data.hub_id or not data.benchmark_task:
        logger.info("No .eval_results: the data set has no benchmark on the Hub (hub_id and benchmark_task).")
        return {}
    entries = [
        EvalResultEntry(
            dataset_id=data.hub_id,
            task_id=data.benchmark_task,
            value=result.metrics["accuracy"],
            notes=f"{result.split}, {protocol_of(result)}",
        )
        for result in summary.results
        if "accuracy" in result.metrics
    ]
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return {f".eval_results/{data.benchmark_task}.yaml": text} if entries else {}


def _distillation_tags(summary: DistillationSummary) -> list[str]:
    """`knowledge-distillation` and the objectives' names (`kd`, `ktd`, `em-ktd`)."""
    names = [objective.settings.get("name", objective.name) for objective in summary.objectives]
    return ["knowledge-distillation", *[name.replace("_", "-") for name in names]] if summary.distilled else []


def _model_index(result: EvaluationResult, data: DataFacts, words: TaskWords) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=words.pipeline,
            task_name=words.name,
            dataset_type=data.hub_id or in_one_line(data.name),
            dataset_name=in_one_line(data.name),
            dataset_split=result.split,
            metric_type=name,
            metric_name=f"{METRIC_NAMES[name]} ({protocol_of(result)})",
            metric_value=round(result.metrics[name], 6),
        )
        for name in METRICS
        if name in result.metrics
    ]


def protocol_of(result: EvaluationResult) -> str:
    """What the model was given, and how scores were taken where that is not the usual way."""
    frames = f", {result.frames} frames" if result.frames > 1 else ""
    return f"{_GIVEN[result.modality]}{frames}{_SCORES.get(result.scores, '')}"


def _size_ratio(summary: DistillationSummary) -> str | None:
    return f"{100 * summary.student.parameters / summary.teacher.parameters:.1f} %" if summary.teacher else None


def _teacher_link(summary: DistillationSummary) -> str | None:
    if summary.teacher is None:
        return None
    title = summary.teacher.title
    return f"[{title}](https://huggingface.co/{title})" if summary.teacher.hub_id else in_markdown(title)


def _size_table(summary: DistillationSummary) -> str:
    rows = [("This model", summary.student), ("Teacher", summary.teacher)]
    cells = [
        [role, _millions(facts.parameters), _millions(facts.visual_parameters), _macs(facts.macs), facts.architecture]
        for role, facts in rows
        if facts is not None
    ]
    return _table(["", "Parameters", "Of the picture encoder", "MACs per clip", "Architecture"], cells)


def _millions(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:,.2f} M"


def _macs(macs: int | None) -> str | None:
    return None if macs is None else f"{macs / 1e9:,.3f} G" if macs < 1e9 else f"{macs / 1e9:,.2f} G"


def _results_table(results: list[EvaluationResult]) -> str | None:
    """A row of the model for each result, with one of its teacher and one of the retention where they are known."""
    controlled = any(result.modality in CONTROLS for result in results)
    shown = (*METRICS, *CONTROL_METRICS) if controlled else METRICS
    names = [name for name in shown if any(name in result.metrics for result in results)]
    rows = []
    for result in results:
        rows.append(_metric_row(result, "this model", result.metrics, names))
        if result.teacher_metrics:
            rows.append(_metric_row(result, "teacher", result.teacher_metrics, names))
        if result.retention:
            rows.append([*_condition(result), "retention", *[_percent(result.retention.get(n)) for n in names]])
    return _table(["Split", "Given", "", *[METRIC_NAMES[name] for name in names]], rows) if rows else None


def _metric_row(result: EvaluationResult, who: str, metrics: dict[str, float], names: list[str]) -> list[str | None]:
    values = [None if n not in metrics else f"{metrics[n] * (1 if n == 'd_prime' else 100):.2f}" for n in names]
    return [*_condition(result), who, *values]


def _condition(result: EvaluationResult) -> list[str]:
    clips = f" ({int(result.metrics['clips']):,} clips)" if "clips" in result.metrics else ""
    return [result.split + clips, protocol_of(result)]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def results_note(summary: DistillationSummary) -> str:
    """What the metrics of a table of results mean."""
    results = summary.results
    absent = max((int(result.metrics.get("classes_without_positives", 0)) for result in results), default=0)
    marked = any(result.modality in CONTROLS and "mask_share" in result.metrics for result in results)
    return (
        words_of(summary).metrics_note
        + (f"; {absent} do not and are left out." if absent else ".")
        + (" Marked is the share of the picture that is, and peak the highest probability in it." if marked else "")
        + (" Retention is this model over its teacher." if any(result.retention for result in results) else "")
    )


def _data_lines(data: DataFacts | None) -> str:
    if data is None:
        return ""
    name = in_markdown(data.name)
    name = f"[{name}](https://huggingface.co/datasets/{data.hub_id})" if data.hub_id else name
    clips = ", ".join(f"{count:,} in {in_markdown(split)}" for split, count in data.clips.items())
    lines = [
        f"- Data set: {name}",
        f"- Clips used: {clips}" if clips else None,
        f"- Classes: {data.classes}" if data.classes else None,
        f"- Manifest hash: {in_code(data.manifest_hash)}" if data.manifest_hash else None,
    ]
    return "\n".join(line for line in lines if line)


def _left_out_table(data: DataFacts | None) -> str | None:
    left_out = data.left_out if data else {}
    kinds = sorted({kind for counts in left_out.values() for kind in counts})
    rows = [[split, *[f"{counts.get(kind, 0):,}" for kind in kinds]] for split, counts in left_out.items()]
    return _table(["Split", *kinds], rows) if kinds else None


def _entropy_table(statistics: dict[str, dict[str, Any]]) -> str | None:
    names = list(dict.fromkeys(name for values in statistics.values() for name in values))
    rows = [[branch, *[setting_text(values.get(name)) for name in names]] for branch, values in statistics.items()]
    return _table(["Branch", *[name.replace("_", " ") for name in names]], rows) if rows else None


def _settings_table(settings: dict[str, Any]) -> str | None:
    settings = {name: value for name, value in flat_settings(settings).items() if value is not None}
    rows = [[name, setting_text(value)] for name, value in settings.items()]
    return _table(["Setting", "Value"], rows, first=_code_cell) if rows else None


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat = {}
    for name, value in settings.items():
        flat.update(flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


def setting_text(value: Any) -> str | None:
    """A setting as a table shows it; `None` where there is none."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting_text(item) or "" for item in value)
    return None if value is None else str(value)


def _table(header: list[str], rows: list[list[str | None]], first: Callable[[str], str] = in_markdown) -> str:
    """A Markdown table without the columns that no row fills; `first` makes the first cell of a row."""
    filled = [index for index in range(len(header)) if any(row[index] for row in rows)]
    cells = [[first(row[0] or ""), *[in_markdown(cell or "") for cell in row[1:]]] for row in rows]
    lines = [[in_markdown(name) for name in header], ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line[index] for index in filled) + " |" for line in lines)


def _code_cell(text: str) -> str:
    return in_code(text).replace("|", "\\|")


def duration(seconds: float | None) -> str | None:
    """`1 h 2 min 3 s`"""
    if seconds is None:
        return None
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n) or "under 1 s"


def _limitations(summary: DistillationSummary) -> list[str]:
    words = words_of(summary)
    data = f", those of {in_markdown(summary.data.name)}," if summary.data else ""
    measured = {result.modality for result in summary.results}
    unmeasured = [_GIVEN[modality] for modality in words.other_inputs if modality not in measured]
    return [
        words.knowledge.format(data=data),
        *words.limits,
        *([f"How well it does with {' or '.join(unmeasured)} was not measured."] if unmeasured else []),
        *(["A student inherits its teacher's errors and biases."] if summary.distilled else []),
        *summary.limitations,
    ]


def _fenced(text: str | None) -> str:
    """As the lines of a block of code, which its own fence ends."""
    return visible(text or "").replace("```", "'''")


def _citations(summary: DistillationSummary) -> list[str]:
    return list(dict.fromkeys(item.citation.strip() for item in summary.objectives if item.citation))
