"""Measured gains of pairs of branches, as a file names them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_gains(path: str | Path, rows: Sequence[str] = ()) -> dict[str, float]:
    """
    Gains in points by pair of branches, teacher first.

    Args:
        path: JSON, either such a mapping, `{"audio->visual": 1.3}`, or the results.json of the benchmark runner.
        rows: of the latter, which row distils which pair, `"audio->visual=FD-CMKD, picture only"`; its gain is the
            paired difference to its reference.

    Raises:
        ValueError: if the file is neither, or a row is not there or has no difference yet.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON file of gains ({error}).") from error
    if isinstance(content, dict) and isinstance(content.get("rows"), dict):
        return {pair: _gain(content["rows"], name, path) for pair, name in _named(rows, path).items()}
    if not isinstance(content, dict) or not content or not all(map(_is_number, content.values())):
        raise ValueError(
            f'{path} must hold gains in points by pair, such as {{"audio->visual": 1.3}}, or be a results.json of '
            "scripts/benchmark_objectives.py."
        )
    return {pair: float(gain) for pair, gain in content.items()}


def _named(rows: Sequence[str], path: str | Path) -> dict[str, str]:
    pairs = dict(row.split("=", 1) for row in rows if "=" in row)
    if not rows or len(pairs) < len(rows):
        raise ValueError(
            f"{path} holds the rows of a benchmark: say which row distils which pair, as in "
            '--gain_rows "audio->visual=FD-CMKD, picture only".'
        )
    return pairs


def _gain(rows: Mapping[str, Any], name: str, path: str | Path) -> float:
    if name not in rows:
        raise ValueError(f"{path} has no row {name!r}; it has {', '.join(rows)}.")
    difference = rows[name]["difference"]
    if difference is None:
        raise ValueError(f"row {name!r} of {path} has no difference to another row; run its reference too.")
    return 100 * difference["mean"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
