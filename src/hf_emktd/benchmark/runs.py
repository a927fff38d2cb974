"""A run: one script with its options and the folder of its results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.objectives import ALL_OBJECTIVES
from .worker import LOG_NAME, RECORD_NAME

# Options of the scripts that take several values: a second mention would replace the first.
OBJECTIVE_OPTIONS = "--objective_options"
LISTS = ("--student_fields", OBJECTIVE_OPTIONS)
# What the rows and the seeds differ in.
RESERVED = ("--seed", "--objective", "--output_dir", "--split", "--modalities", "--monitor")


@dataclass(frozen=True)
class Run:
    """
    One run of a script.

    Args:
        title: what the progress calls it.
        script: path of the script.
        options: its options, without `--output_dir`.
        folder: where it leaves its log and its record, and, unless `output` names another, its results.
        output: *optional*, name of a folder below `folder` that the script writes to.
    """

    title: str
    script: Path
    options: tuple[str, ...]
    folder: Path
    output: str = ""

    @property
    def command(self) -> list[str]:
        """Options as the script gets them."""
        return [*self.options, "--output_dir", str(self.folder / self.output)]

    @property
    def finished(self) -> bool:
        """Whether the script has ended well."""
        return (self.folder / RECORD_NAME).is_file()

    @property
    def record(self) -> dict[str, Any]:
        """What `run_script` measured."""
        return self._read(RECORD_NAME)

    @property
    def results(self) -> dict[str, Any]:
        """The script's `results.json`."""
        return self._read("results.json")

    @property
    def summary(self) -> dict[str, Any]:
        """The model's `distillation.json`: sizes, versions, clips, command."""
        return self._read("distillation.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """What the Trainer logged."""
        return self._read("trainer_state.json")["log_history"]

    def last_lines(self, count: int = 10) -> str:
        """The end of the log, each line as it stood on the screen last."""
        log = self.folder / LOG_NAME
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else "(it has no log)"
        lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
        return "\n".join([line for line in lines if line.strip()][-count:])

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def digest(*parts: Any) -> str:
    """Eight characters that tell one set of options from another."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def digest_of_weights(folder: str | Path) -> str:
    """Tells models apart by their weights; of a model on the Hub by its name alone."""
    files = sorted(Path(folder).glob("*.safetensors"))
    contents = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            contents.update(hashlib.file_digest(file, "sha256").digest())
    return contents.hexdigest() if files else str(folder)


def joined(*groups: Sequence[str], objectives: Sequence[str]) -> tuple[str, ...]:
    """
    The options of all groups, later ones winning; values of the [`LISTS`] are put together, so that a row's fields do
    not replace those that were typed. Of `--objective_options` those of other objectives than `objectives` are left
    out: what is typed is for all rows.
    """
    options: list[str] = []
    lists: dict[str, list[str]] = {}
    for group in groups:
        single, several = _split(group)
        options += single
        for name, values in several.items():
            lists.setdefault(name, []).extend(values)
    own = [value for value in lists.pop(OBJECTIVE_OPTIONS, []) if value.partition(".")[0] in objectives]
    lists |= {OBJECTIVE_OPTIONS: own} if own else {}
    return (*options, *(word for name, values in lists.items() if values for word in (name, *values)))


def objective_options(options: Sequence[str]) -> list[str]:
    """The values of `--objective_options` among options, of all places where it is typed."""
    return _split(options)[1].get(OBJECTIVE_OPTIONS, [])


def value_of(options: Sequence[str], name: str) -> str | None:
    """The one value of an option that is typed as `--name VALUE` or `--name=VALUE`; `None` without it."""
    for place, word in enumerate(options):
        if word == name and place + 1 < len(options):
            return options[place + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def without(options: Sequence[str], name: str) -> list[str]:
    """The options but that one and its value."""
    value = value_of(options, name)
    typed = list(options)
    for words in ([name, value], [f"{name}={value}"]):
        for place in range(len(typed)):
            if typed[place : place + len(words)] == words:
                return typed[:place] + typed[place + len(words) :]
    return typed


def check_typed_options(options: Sequence[str]) -> None:
    """
    Refuses what is typed for all students but is the benchmark's to say.

    Raises:
        ValueError: naming the option.
    """
    single, lists = _split(options)
    for word in single:
        if word.partition("=")[0] in RESERVED:
            raise ValueError(f"{word.partition('=')[0]} differs between the runs of a benchmark; leave it out.")
    for option in lists.get(OBJECTIVE_OPTIONS, []):
        if option.partition(".")[0] not in ALL_OBJECTIVES:
            raise ValueError(
                f"--objective_options {option}: there is no such objective; known: {', '.join(ALL_OBJECTIVES)}."
            )


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Options, and the values of the [`LISTS`] by name."""
    options: list[str] = []
    lists: dict[str, list[str]] = {}
    target = options
    for word in words:
        name, separator, value = word.partition("=")
        if word.startswith("--"):
            target = lists.setdefault(name, []) if name in LISTS else options
            word = value if name in LISTS else word
        if word or separator:
            target.append(word)
    return options, lists


def slug(name: str) -> str:
    """A row's name as a folder's."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower().replace(" + ", "_"))
