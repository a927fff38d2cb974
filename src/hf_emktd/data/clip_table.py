"""A user's own clips: one table with the columns split, label and video, or image and audio."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .clip_source import COLUMNS, ClipReport, ClipRow, ClipSource, check_label
from .media import PathLike

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def ClipTable(
    csv_path: PathLike,
    *,
    root: PathLike | None = None,
    label_names: Sequence[str] | None = None,
    allow_outside_root: bool = False,
) -> ClipSource:
    """Reads a table of clips with a header row; other columns are ignored.

    | column | content |
    | --- | --- |
    | `split` | `train`, `validation` (or `valid`, `val`) or `test` |
    | `label` | name of the class |
    | `video` | path of a clip with sound and picture |
    | `image`, `audio` | instead of `video`: paths of a picture and a sound; a cell or a whole column may be empty |
    | `clip_id` | *optional*, unique; defaults to the name of the video or sound file, with the line where not unique |

    Rows whose files are missing are counted and left out.

    Args:
        csv_path (`str` or `os.PathLike`): The table, `.csv` (commas) or `.tsv` (tabs), UTF-8.
        root (`str` or `os.PathLike`, *optional*): What paths are relative to; defaults to the folder of the table.
        label_names (sequence of `str`, *optional*): Class names by label id. Defaults to the labels of all rows,
            whether their files exist or not, sorted as text, or by value if all are whole numbers.
        allow_outside_root (`bool`, *optional*, defaults to `False`): Whether paths may be absolute or lead out of
            `root`: a table from elsewhere should not be able to read any file.

    Raises:
        `FileNotFoundError`: No table, or none of the files that it names.
        `ValueError`: The table cannot be read; file, line and column are named.
    """
    path = Path(csv_path)
    lines = _read_lines(path)
    names = _label_names(lines, label_names)
    known = set(names)
    root = path.parent if root is None else Path(root)
    report = ClipReport(rows=dict(Counter(line.split for line in lines)))
    present = []
    for line, clip_id in zip(lines, _clip_ids(lines), strict=True):
        if line.label not in known:
            check_label(line.label, names, f"{line.place}, column label")
        files = {column: _resolve(line, column, root, allow_outside_root) for column in line.files}
        if problem := _problem(files):
            report.add(line.split, problem[0], clip_id, problem[1])
        else:
            _note_absent(report, line, clip_id)
            present.append(ClipRow(clip_id, line.split, line.label, files))
    if not present:
        example = next(filter(None, lines[0].files.values()))
        raise FileNotFoundError(
            f"none of the {len(lines):,} rows of {path} has its files below {root}, such as {example}; pass the "
            "folder that paths are relative to as root"
        )
    return ClipSource.from_rows(names, present, report)


@dataclass(frozen=True)
class _Line:
    place: str
    number: int
    split: str
    label: str
    clip_id: str
    files: dict[str, str]


def _read_lines(path: Path) -> list[_Line]:
    if path.suffix.lower() not in DELIMITERS:
        raise ValueError(f"{path}: a table ends in {' or '.join(DELIMITERS)}, got {path.suffix or 'no ending'!r}")
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark first
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=DELIMITERS[path.suffix.lower()])
            columns = _media_columns(path, list(reader.fieldnames or []))
            lines = [_parse(row, columns, path, reader.line_num) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8") from error
    if not lines:
        raise ValueError(f"{path}: no rows below the header")
    return lines


def _media_columns(path: Path, header: list[str]) -> list[str]:
    columns = [column for column in COLUMNS if column in header]
    missing = [column for column in ("split", "label") if column not in header]
    if missing or not columns:
        wanted = ", ".join(missing) or "video (or image and audio)"
        raise ValueError(
            f"{path}: no column {wanted}; a table needs split, label and video, or image and audio; got {header}"
        )
    if "video" in columns and len(columns) > 1:
        raise ValueError(f"{path}: columns {', '.join(columns)} at once; keep video, or image and audio")
    return columns


def _parse(row: dict[str | None, str], columns: list[str], path: Path, number: int) -> _Line:
    place = f"{path}, line {number}"
    if None in row or None in row.values():
        raise ValueError(f"{place}: more or fewer fields than the header; quote fields that contain the delimiter")
    row = {column: value.strip() for column, value in row.items()}
    split = SPLIT_NAMES.get(row["split"].lower())
    if split is None:
        raise ValueError(
            f"{place}, column split: unknown split {row['split']!r}, expected one of {', '.join(SPLIT_NAMES)}"
        )
    if not row["label"]:
        raise ValueError(f"{place}, column label: empty")
    if not any(row[column] for column in columns):
        raise ValueError(f"{place}, column {' and '.join(columns)}: empty; a row needs a file")
    return _Line(place, number, split, row["label"], row.get("clip_id", ""), {c: row[c] for c in columns})


def _label_names(lines: list[_Line], given: Sequence[str] | None) -> list[str]:
    if given is not None:
        if len(set(given)) != len(given):
            raise ValueError(f"label_names holds a name twice: {[n for n, c in Counter(given).items() if c > 1]}")
        return list(given)
    names = sorted({line.label for line in lines})
    return sorted(names, key=int) if all(_is_whole(name) for name in names) else names


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _clip_ids(lines: list[_Line]) -> list[str]:
    stems = [
        line.clip_id or Path(line.files.get("video") or line.files.get("audio") or line.files["image"]).stem
        for line in lines
    ]
    counts = Counter(stems)
    ids = [
        stem if line.clip_id or counts[stem] == 1 else f"{stem}_{line.number}"
        for stem, line in zip(stems, lines, strict=True)
    ]
    first: dict[str, _Line] = {}
    for clip_id, line in zip(ids, lines, strict=True):
        if clip_id in first:
            raise ValueError(f"{line.place}, column clip_id: {clip_id!r} is already in line {first[clip_id].number}")
        first[clip_id] = line
    return ids


def _resolve(line: _Line, column: str, root: Path, allow_outside_root: bool) -> str | None:
    name = line.files[column]
    if not name:
        return None
    if not allow_outside_root and (os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir):
        raise ValueError(
            f"{line.place}, column {column}: {name!r} leads out of {root}; if the table can be trusted, set "
            "allow_outside_root=True"
        )
    return str(root / name)


def _problem(files: dict[str, str | None]) -> tuple[str, str] | None:
    """Kind and reason if a file that the row names is not there or empty."""
    for path in filter(None, files.values()):
        if not os.path.isfile(path):
            return "missing", f"no file {path}"
        if os.path.getsize(path) == 0:
            return "corrupt", f"{path} is empty (0 bytes)"
    return None


def _note_absent(report: ClipReport, line: _Line, clip_id: str) -> None:
    for column, kind in (("audio", "soundless"), ("image", "pictureless")):
        if line.files.get(column) == "":
            report.add(line.split, kind, clip_id, f"column {column} is empty")
