"""What every data set gives: rows per split, a fixed list of labels, and a report of what is missing or odd."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value

from .media import Clip, MediaError, MediaNotFoundError

KINDS = {
    "missing": "the table names it but no file is there",
    "corrupt": "the file cannot be read",
    "soundless": "no sound stream",
    "silent": "a sound stream without signal",
    "pictureless": "no picture stream",
    "still": "every sampled frame shows the same picture",
    "maskless": "the mask of a labelled frame is not there",
}
# Clips that only have these stay in use.
USABLE = frozenset({"silent", "still"})
UNUSABLE = frozenset(KINDS) - USABLE
SPLITS = ("train", "validation", "test")
COLUMNS = ("video", "image", "audio")
# lists of paths, of a scene with one picture and at most one mask a second
LIST_COLUMNS = ("frames", "masks")

# -80 dB of full scale: below the dither of a 14-bit recording, so nothing was recorded.
SILENCE_PEAK = 1e-4
# Mean difference of grey levels between frames that a codec alone makes out of one picture.
STILL_MEAN_DIFFERENCE = 0.5

Paths = str | list[str | None] | None


def status_of(clip: Clip) -> str:
    """The one kind of [`ClipReport`] that says most about a decoded clip, or `"ok"`.

    A missing stream comes before an empty one and sound before picture: `"soundless"`, `"pictureless"`, `"silent"`
    (no sample above 1e-4 of full scale), `"still"` (two or more frames, each within half a grey level of the first on
    average).
    """
    if clip.waveform is None:
        return "soundless"
    if clip.frames is None:
        return "pictureless"
    if is_silent(clip.waveform):
        return "silent"
    return "still" if is_still(clip.frames) else "ok"


def kind_of(error: MediaError) -> str:
    """The kind of [`ClipReport`] that a clip has which cannot be read."""
    return "missing" if isinstance(error, MediaNotFoundError) else "corrupt"


def is_silent(waveform: np.ndarray) -> bool:
    """Whether no sample of `(samples,)` exceeds 1e-4 of full scale."""
    return waveform.size == 0 or float(np.abs(waveform).max()) < SILENCE_PEAK


def is_still(frames: np.ndarray) -> bool:
    """Whether uint8 frames `(N, height, width, 3)`, N > 1, all differ from the first by under half a grey level."""
    if len(frames) < 2:
        return False
    first = frames[0].astype(np.int16)
    return all(np.abs(frame - first).mean() < STILL_MEAN_DIFFERENCE for frame in frames[1:])


def refuse_clip(kind: str, clip_id: str, reason: str) -> None:
    """Makes an error of a problem for which a clip would be left out.

    Raises:
        `ValueError`: naming the clip.
    """
    if kind in UNUSABLE:
        told = reason or KINDS[kind]
        raise ValueError(
            f"clip {clip_id!r} is {kind}: {told}; put it right, or run without strict to have such clips left out"
        )


@dataclass(frozen=True)
class ClipRow:
    """One clip of a data set.

    Args:
        clip_id (`str`): Its name, unique in the data set.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        label (`str`): Name of its class.
        files (mapping of `str` to `str` or list of `str`, *optional*): Paths by column, `video` or `image` and
            `audio`, of a scene also the lists `frames` and `masks`; `None` where that part is absent.
    """

    clip_id: str
    split: str
    label: str
    files: Mapping[str, Paths] = field(default_factory=dict)


@dataclass
class ClipReport:
    """What a data set names, what of it is there and what is wrong with it.

    Args:
        rows (`dict[str, int]`): Rows the annotations name, by split.
        found (`dict[str, int]`): Rows whose files are there, by split; those that vanish while they are read are taken
            out again.
        notes (`dict[str, int]`): Harmless oddities that were put right, such as `duplicate_rows`, by count.
        manifest_hash (`str`): Identifies the clips in use (names, splits, labels, file sizes), wherever they lie.
    """

    rows: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    manifest_hash: str = ""
    _problems: dict[tuple[str, str, str], str] = field(default_factory=dict, repr=False)
    _examples: dict[str, str] = field(default_factory=dict, repr=False)
    _strict: bool = field(default=False, repr=False)

    def add(self, split: str, kind: str, clip_id: str, reason: str = "") -> None:
        """Notes a problem of one clip; noting it again changes only the reason.

        Raises:
            `ValueError`: `kind` is none of `KINDS`, or problems are refused ([`ClipReport.refuse_problems`]).
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r} for clip {clip_id!r}; it must be one of {', '.join(KINDS)}")
        key = (split, kind, clip_id)
        self._problems[key] = reason or self._problems.get(key, "") or KINDS[kind]
        if self._strict:
            refuse_clip(kind, clip_id, self._problems[key])

    def lose(self, split: str, clip_id: str, reason: str = "") -> None:
        """Notes that a clip's files were found and are no longer there."""
        if split in self.found and (split, "missing", clip_id) not in self._problems:
            self.found[split] -= 1
        self.add(split, "missing", clip_id, reason)

    def note(self, oddity: str, count: int = 1, example: str = "") -> None:
        """Counts something that was put right; its first example goes into the summary."""
        if count:
            self.notes[oddity] = self.notes.get(oddity, 0) + count
            self._examples.setdefault(oddity, example)

    def refuse_problems(self) -> None:
        """
        Makes an error of the first problem for which a clip is left out, and of the first oddity of the annotations:
        at once, if there is one already, or else when it is added. Silent and still clips stay in use and are counted.

        Raises:
            `ValueError`: naming the clip and what is wrong with it.
        """
        self._strict = True
        for (_, kind, clip_id), reason in self._problems.items():
            refuse_clip(kind, clip_id, reason)
        for oddity in self.notes:
            raise ValueError(f"{self._told(oddity)}; put it right, or run without strict to have such things counted")

    @property
    def is_strict(self) -> bool:
        """Whether problems are refused."""
        return self._strict

    def _told(self, oddity: str) -> str:
        example = self._examples.get(oddity)
        return f"{self.notes[oddity]:,} {oddity.replace('_', ' ')}{f', such as {example}' if example else ''}"

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of clips by split and kind; kinds that do not occur are left out."""
        counts: dict[str, dict[str, int]] = {}
        for (split, kind), count in Counter((split, kind) for split, kind, _ in self._problems).items():
            counts.setdefault(split, {})[kind] = count
        return counts

    @property
    def problems(self) -> list[dict[str, str]]:
        """Every problem as split, kind, clip_id and reason, in the order of these."""
        return [
            {"split": split, "kind": kind, "clip_id": clip_id, "reason": reason}
            for (split, kind, clip_id), reason in sorted(self._problems.items())
        ]

    def clip_ids(self, split: str, kind: str) -> list[str]:
        """Sorted names of the clips of a split that have this problem."""
        return sorted(clip_id for s, k, clip_id in self._problems if (s, k) == (split, kind))

    def summary(self) -> str:
        """One paragraph: rows, found and problems of each split, and the manifest hash."""
        counts = self.counts
        parts = []
        for split, rows in self.rows.items():
            kinds = counts.get(split, {})
            listed = "".join(f", {kinds[kind]:,} {kind}" for kind in KINDS if kind in kinds)
            parts.append(f"{split}: {rows:,} rows, {self.found.get(split, 0):,} found{listed}.")
        parts.extend(f"{self._told(oddity)}." for oddity in self.notes)
        return " ".join([*parts, f"Manifest {self.manifest_hash[:12]}."])

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything as one JSON file, which appears under its name only when it is complete."""
        content = {
            "manifest_hash": self.manifest_hash,
            "rows": self.rows,
            "found": self.found,
            "notes": self.notes,
            "counts": self.counts,
            "problems": self.problems,
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            unfinished = Path(folder) / path.name
            unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(unfinished, path)


@dataclass
class ClipSource:
    """A data set of clips.

    Args:
        label_names (`list[str]`): Names by label id.
        splits (`datasets.DatasetDict`): Columns `clip_id`, `label` (`ClassLabel`) and `video`, or `image` and / or
            `audio` (paths), of scenes also `frames` and `masks` (lists of paths); only clips whose files are there.
        report ([`ClipReport`]): What is missing or odd.
        contents (`dict[str, str]`): By split, what identifies media that are embedded instead of paths.
    """

    label_names: list[str]
    splits: DatasetDict
    report: ClipReport
    contents: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, label_names: Sequence[str], rows: Iterable[ClipRow], report: ClipReport) -> ClipSource:
        """Builds the splits from rows whose files exist, and completes the report with their number and hash.

        A split that the report names but of which nothing was found is left out; label ids do not change with it.
        """
        by_split: dict[str, list[ClipRow]] = {split: [] for split in SPLITS}
        for row in rows:
            by_split[row.split].append(row)
        named = {column for row in chain(*by_split.values()) for column in row.files}
        columns = [column for column in COLUMNS + LIST_COLUMNS if column in named]
        splits = {split: _to_dataset(members, columns, label_names) for split, members in by_split.items() if members}
        report.found = {split: len(by_split[split]) for split in SPLITS if split in report.rows}
        report.manifest_hash = manifest_hash(chain(*by_split.values()))
        return cls(list(label_names), DatasetDict(splits), report)

    def stream(self, split: str) -> IterableDataset:
        """The rows of a split as an `IterableDataset`.

        Raises:
            `ValueError`: There is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"no split {split!r}; there are {', '.join(self.splits)}")
        return self.splits[split].to_iterable_dataset()


def _to_dataset(rows: list[ClipRow], columns: list[str], label_names: Sequence[str]) -> Dataset:
    labels = ClassLabel(names=list(label_names))
    paths = {column: [row.files.get(column) for row in rows] for column in columns}
    kinds = {column: List(Value("string")) if column in LIST_COLUMNS else Value("string") for column in columns}
    return Dataset.from_dict(
        {"clip_id": [row.clip_id for row in rows], "label": labels.str2int([row.label for row in rows]), **paths},
        features=Features({"clip_id": Value("string"), "label": labels, **kinds}),
    )


def collect_rows(
    placed_rows: Iterable[tuple[str, ClipRow]], label_names: Sequence[str], report: ClipReport
) -> dict[str, ClipRow]:
    """Rows by clip id, from pairs of place (file and line, for messages) and row; equal duplicates are counted.

    Raises:
        `ValueError`: A label is unknown, or two rows of one clip contradict each other.
    """
    known = set(label_names)
    rows: dict[str, ClipRow] = {}
    for place, row in placed_rows:
        if row.label not in known:
            check_label(row.label, label_names, place)
        if row.clip_id not in rows:
            rows[row.clip_id] = row
            report.rows[row.split] = report.rows.get(row.split, 0) + 1
        elif rows[row.clip_id] == row:
            report.note("duplicate_rows")
        else:
            raise ValueError(f"{place}: {row} contradicts {rows[row.clip_id]}; remove one of the rows")
    return rows


def check_label(label: str, label_names: Sequence[str], place: str) -> None:
    """Refuses a label that is not among `label_names`, naming the nearest ones.

    Raises:
        `ValueError`: The label is unknown.
    """
    if label not in label_names:
        # names that differ in case alone come nearest
        by_folded = {name.casefold(): name for name in label_names}
        near = [by_folded[name] for name in difflib.get_close_matches(label.casefold(), by_folded, n=3)]
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"{place}: unknown label {label!r}, not one of the {len(label_names)} classes{meant}")


def manifest_hash(rows: Iterable[ClipRow]) -> str:
    """
    SHA-256 over the sorted names, splits, labels and file sizes (bytes, by column, -1 where there is none); no path
    goes in.
    """
    entries = sorted(
        [row.clip_id, row.split, row.label, [[column, _size(path)] for column, path in sorted(row.files.items())]]
        for row in rows
    )
    return hashlib.sha256(json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def _size(paths: Paths) -> int | list[int]:
    if isinstance(paths, list):
        return [_size(path) for path in paths]
    return -1 if paths is None else size_of_file(paths)


def size_of_file(path: str) -> int:
    """In bytes; -1 if it is not there, or no longer."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1
