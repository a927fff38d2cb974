"""Rows of a table in text, with the line that each ends on; what cannot be read is refused in one sentence."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

__all__ = ["read_records", "read_rows"]


def read_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """
    Line and fields, without blanks around them, of every row that is not empty. Byte-order marks, any line ends and
    quotes are understood.

    Raises:
        `ValueError`: the file is not UTF-8, or a quote is not closed.
    """
    # utf-8-sig: spreadsheet programs put a byte-order mark first
    with open(path, encoding="utf-8-sig", newline="") as file:
        # strict: otherwise a quote that is never closed swallows all rows behind it
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num, [field.strip() for field in fields]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8") from error
        except csv.Error as error:
            place = f"{path}, line {reader.line_num}"
            raise ValueError(f"{place}: {error}; close every quote, and double those inside") from error


def read_records(path: Path, delimiter: str = ",") -> tuple[list[str], Iterator[tuple[int, dict[str, str] | None]]]:
    """
    Header of a table, and line and fields by column of every row; `None` where there are more or fewer than columns.

    Raises:
        `ValueError`: as [`read_rows`], or the header names a column twice.
    """
    rows = read_rows(path, delimiter)
    _, header = next(rows, (0, []))
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise ValueError(f"{path}: column {', '.join(map(repr, twice))} twice in the header; remove or rename one")
    records = (
        (line, dict(zip(header, fields, strict=True)) if len(fields) == len(header) else None) for line, fields in rows
    )
    return header, records
