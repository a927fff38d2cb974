"""What a run has left in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..hub import DistillationSummary
from ..hub.distillation_summary import SUMMARY_NAME
from ..training.finish import REPORT_NAME, RESULTS_NAME
from .left_out import LeftOut, attempt

STATE_NAME = "trainer_state.json"
CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class RunRecord:
    """
    The files of a run's `output_dir`, each read or a [`LeftOut`].

    Args:
        folder: the run's.
        summary: of `distillation.json`.
        log: what the Trainer logged, from `trainer_state.json` or, of a run that has not ended, its last checkpoint.
        results: `results.json`.
        clips: `clips.json`, the report of the clips.
    """

    folder: Path
    summary: DistillationSummary | LeftOut
    log: list[dict[str, Any]] | LeftOut
    results: dict[str, Any] | LeftOut
    clips: dict[str, Any] | LeftOut

    @property
    def title(self) -> str:
        """Of the model, without where on a disk it lies."""
        if isinstance(self.summary, LeftOut):
            return self.folder.resolve().name
        return self.summary.student.title

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is known that the model was distilled from or is compared with."""
        return not isinstance(self.summary, LeftOut) and self.summary.teacher is not None

    def find_teacher(self) -> str:
        """
        Hub id or directory of the teacher. A directory is looked for where the command of the run would find it from
        here, then beside the run as it was then: runs are moved together.

        Raises:
            ValueError: if the run had no teacher, or its directory is not there.
        """
        if not self.has_teacher:
            raise ValueError("the run had no teacher.")
        teacher, student = self.summary.teacher, Path(self.summary.student.name)
        if teacher.hub_id is not None:
            return teacher.hub_id
        folder = self.folder.resolve()
        moved = folder.parts[-len(student.parts) :] == student.parts
        places = [Path(teacher.name), *([Path(*folder.parts[: -len(student.parts)], teacher.name)] if moved else [])]
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise ValueError(f"the teacher, {teacher.name}, is not there any more; --teacher names a directory.")
        return str(place)


def read_run(folder: str | Path) -> RunRecord:
    """
    Reads the `output_dir` of `train_teacher.py` or `distill.py`.

    Raises:
        ValueError: if it is no folder, or has none of a run's files.
    """
    folder = Path(folder)
    checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if checkpoint is None and not any((folder / name).is_file() for name in (SUMMARY_NAME, STATE_NAME, CONFIG_NAME)):
        raise ValueError(
            f"{folder} is not the output_dir of a run: it should hold {SUMMARY_NAME}, {STATE_NAME} and {CONFIG_NAME}, "
            "as scripts/train_teacher.py and scripts/distill.py leave them."
        )
    return RunRecord(
        folder=folder,
        summary=attempt(_read_summary, folder),
        log=attempt(_read_log, folder, checkpoint or folder),
        results=attempt(_read_json, folder / RESULTS_NAME),
        clips=attempt(_read_json, folder / REPORT_NAME),
    )


def _read_summary(folder: Path) -> DistillationSummary:
    if not (folder / SUMMARY_NAME).is_file():
        raise ValueError(f"{SUMMARY_NAME} is not there: it is written when a run has ended.")
    return DistillationSummary.load(folder)


def _read_log(folder: Path, checkpoint: str | Path) -> list[dict[str, Any]]:
    path = next((path for path in (folder / STATE_NAME, Path(checkpoint, STATE_NAME)) if path.is_file()), None)
    if path is None:
        raise ValueError(f"{STATE_NAME}, with what was logged, is not there.")
    lines = _read_json(path).get("log_history")
    if not isinstance(lines, list):
        raise ValueError(f"{STATE_NAME} has no log_history.")
    return [line for line in lines if isinstance(line, dict)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.name} is not there.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object, got {type(content).__name__}.")
    return content
