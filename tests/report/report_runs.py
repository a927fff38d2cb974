"""Folders as runs leave them, of models that were not trained, and a reader of pages."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import tiny_runs

from hf_emktd.hub import DataFacts, DistillationSummary, EvaluationResult, ModelFacts, ObjectiveFacts
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER, build_objectives

VOID = {"meta", "br", "img", "hr"}
LOG = [
    {"epoch": 1.0, "step": 4, "loss": 3.0, "loss_task": 1.0, "loss_em_ktd_audio": 2.0, "loss_auxiliary": 0.0},
    {"epoch": 1.0, "step": 4, "eval_loss": 1.1, "eval_accuracy": 0.25},
    {"epoch": 2.0, "step": 8, "loss": 1.5, "loss_task": 0.5, "loss_em_ktd_audio": 1.0, "weight_audio": 0.75},
    {"epoch": 2.0, "step": 8, "train_runtime": 3.0, "train_loss": 2.2},
]
COMMAND = "python scripts/distill.py --teacher teacher --output_dir student"


def make_run(
    folder: Path,
    labels: list[str] = tiny_runs.LABELS,
    clip_name: str = "clip",
    student_fields: dict | None = None,
    **facts,
) -> Path:
    """
    A teacher with its monitor, a narrower student, their clips and all files of the student's run.

    Args:
        labels: three class names, in the order of their text.
        student_fields: of its config.
        clip_name: every clip's name begins with it.
        facts: further fields of the summary.
    """
    table = make_table(folder, labels, clip_name)
    id2label = dict(enumerate(labels))
    teacher = tiny_runs.make_model(seed=1, id2label=id2label)
    student = tiny_runs.make_model(hidden_size=8, id2label=id2label, **(student_fields or {}))
    for name, model in (("teacher", teacher), ("student", student)):
        model.config.training_data = {"dataset": str(table), "data_dir": None, "options": {}}
        model.save_pretrained(folder / name)
        CavMaeProcessor.from_config(model.config).save_pretrained(folder / name)
    tiny_runs.make_monitor(teacher).save_pretrained(folder / "teacher" / MONITOR_FOLDER)
    objectives = build_objectives(tiny_runs.make_arguments(folder), student.config, teacher.config)
    values = {
        "student": ModelFacts.from_model(student, "student"),
        "teacher": ModelFacts.from_model(teacher, "teacher"),
        "objectives": [ObjectiveFacts.from_objective(objective) for objective in objectives],
        "data": DataFacts(
            "clips.csv", {"train": 12, "validation": 6, "test": 7}, {"train": {"silent": 2}}, "f" * 64, 3
        ),
        "results": [EvaluationResult("test", {"accuracy": 0.4, "mAP": 0.5}, {"accuracy": 0.8, "mAP": 0.5})],
        "hyper_parameters": {"learning_rate": 0.05, "task_weight": 2.0},
        "command": COMMAND,
        "training_seconds": 75.0,
    }
    DistillationSummary(**(values | facts)).save(folder / "student")
    state = {"log_history": LOG, "global_step": 8}
    (folder / "student" / "trainer_state.json").write_text(json.dumps(state))
    (folder / "student" / "results.json").write_text("{}")
    (folder / "student" / "clips.json").write_text(json.dumps({"rows": {"train": 14, "validation": 6, "test": 7}}))
    return folder


def make_table(folder: Path, labels: list[str], clip_name: str) -> Path:
    """The table of `tiny_runs.make_table` with other labels and names."""
    path = tiny_runs.make_table(folder)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        row["label"] = labels[tiny_runs.LABELS.index(row["label"])]
        row["clip_id"] = f"{clip_name}{index}"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass
class Page(HTMLParser):
    """The text of a page by section, its elements and their attributes."""

    html: str
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.section = "header"
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"]

    def handle_data(self, data: str) -> None:
        self.sections[self.section] = self.sections.get(self.section, "") + data

    def left_out(self) -> dict[str, str]:
        """By section the reason in place of it."""
        return {name: text for name, text in self.sections.items() if "Left out: " in text}
