"""A user's own clips: one table with the columns split, label and video, or image and audio."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .clip_source import COLUMNS, ClipReport, ClipRow, ClipSource, check_label, size_of_file
from .csv_rows import read_records
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
    """Reads a table of clips with a header row; other columns and empty rows are ignored.

    | column | content |
    | --- | --- |
    | `split` | `train`, `validation` (or `valid`, `val`) or `test` |
    | `label` | name of the class |
    | `video` | path of a clip with sound and picture |
    | `image`, `audio` | instead of `video`: paths of a picture and a sound; a cell or a whole column may be empty |
    | `clip_id` | *optional*, unique; defaults to the name of the video or sound file, with the line where not unique |

    Rows whose files are missing are counted and left out. Of rows that say the same all but one are left out; they are
    counted as well, and so are files that several rows name with other splits or labels, and labels that differ only
    in case, blanks or the way their letters are encoded, which stay different classes.

    Args:
        csv_path (`str` or `os.PathLike`): The table, `.csv` (commas) or `.tsv` (tabs), UTF-8.
        root (`str` or `os.PathLike`, *optional*): What paths are relative to; defaults to the folder of the table.
        label_names (sequence of `str`, *optional*): Class names by label id. Defaults to the labels of all rows,
            whether their files exist or not, sorted as text, or by value if all are whole numbers.
        allow_outside_root (`bool`, *optional*, defaults to `False`): Whether paths may lead out of `root`, by `..` or
            because they are absolute: a table from elsewhere should not be able to read any file.

    Raises:
        `FileNotFoundError`: No table, or none of the files that it names.
        `ValueError`: The table cannot be read; file, line and column are named.
    """
    path = Path(csv_path)
    report = ClipReport()
    lines = _distinct(_read_lines(path), report)
    names = _label_names(lines, label_names, report)
    known = set(names)
    root = path.parent if root is None else Path(root)
    report.rows = dict(Counter(line.split for line in lines))
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
    header, records = read_records(path, DELIMITERS[path.suffix.lower()])
    columns = _media_columns(path, header)
    lines = [_parse(record, columns, path, number) for number, record in records]
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


def _parse(row: dict[str, str] | None, columns: list[str], path: Path, number: int) -> _Line:
    place = f"{path}, line {number}"
    if row is None:
        raise ValueError(f"{place}: more or fewer fields than the header; quote fields that contain the delimiter")
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


def _distinct(lines: list[_Line], report: ClipReport) -> list[_Line]:
    """The first of all rows that say the same."""
    first: dict[tuple, _Line] = {}
    for line in lines:
        said = (line.split, line.label, line.clip_id, *line.files.items())
        if first.setdefault(said, line) is not line:
            report.note("duplicate_rows", example=f"line {line.number}")
    shared = Counter(tuple(line.files.items()) for line in first.values())
    for files, count in shared.items():
        if count > 1:
            report.note("files_in_several_rows", example=repr(next(name for _, name in files if name)))
    return list(first.values())


def _label_names(lines: list[_Line], given: Sequence[str] | None, report: ClipReport) -> list[str]:
    if given is not None:
        if len(set(given)) != len(given):
            raise ValueError(f"label_names holds a name twice: {[n for n, c in Counter(given).items() if c > 1]}")
        return list(given)
    names = sorted({line.label for line in lines})
    _note_alike(names, report)
    return sorted(names, key=int) if all(_is_whole(name) for name in names) else names


def _note_alike(names: list[str], report: ClipReport) -> None:
    alike: dict[str, list[str]] = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", "".join(name.split())).casefold()
        alike.setdefault(folded, []).append(name)
    for group in alike.values():
        if len(group) > 1:
            report.note("labels_alike", len(group), " and ".join(map(repr, group)))


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _clip_ids(lines: list[_Line]) -> list[str]:
    given: dict[str, _Line] = {}
    for line in lines:
        if line.clip_id and given.setdefault(line.clip_id, line) is not line:
            before = given[line.clip_id].number
            raise ValueError(f"{line.place}, column clip_id: {line.clip_id!r} is already in line {before}")
    stems = [
        Path(line.files.get("video") or line.files.get("audio") or line.files["image"]).stem
        for line in lines
        if not line.clip_id
    ]
    counts, taken, unnamed = Counter(stems), set(given), iter(stems)
    # a name of its own comes before one that is made unique
    taken.update(stem for stem, count in counts.items() if count == 1)
    return [line.clip_id or _default_id(next(unnamed), line.number, counts, given, taken) for line in lines]


def _default_id(stem: str, number: int, counts: Counter[str], given: dict[str, _Line], taken: set[str]) -> str:
    if counts[stem] == 1 and stem not in given:
        return stem
    while (stem := f"{stem}_{number}") in taken:
        pass
    taken.add(stem)
    return stem


def _resolve(line: _Line, column: str, root: Path, allow_outside_root: bool) -> str | None:
    name = line.files[column]
    if not name:
        return None
    path = os.path.join(root, name)
    if allow_outside_root:
        return path
    # ".." after a link would lead elsewhere than it reads, so what is opened is the path without it
    path, below = os.path.normpath(path), os.path.normpath(root)
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(below)):
        raise ValueError(
            f"{line.place}, column {column}: {name!r} leads out of {root}; if the table can be trusted, set "
            "allow_outside_root=True"
        )
    return path


def _problem(files: dict[str, str | None]) -> tuple[str, str] | None:
    """Kind and reason if a file that the row names is not there or empty."""
    for path in filter(None, files.values()):
        if not os.path.isfile(path):
            return "missing", f"no file {path}"
        if size_of_file(path) == 0:
            return "corrupt", f"{path} is empty (0 bytes)"
    return None


def _note_absent(report: ClipReport, line: _Line, clip_id: str) -> None:
    for column, kind in (("audio", "soundless"), ("image", "pictureless")):
        if line.files.get(column) == "":
            report.add(line.split, kind, clip_id, f"column {column} is empty")
