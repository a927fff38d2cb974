"""Parts of a report that cannot be made, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What goes wrong where files, models or clips are not what they were when the run ended.
FAILURES = (ValueError, OSError, RuntimeError, ImportError, LookupError, TypeError)


@dataclass(frozen=True)
class LeftOut:
    """In place of a part: one line that says why it is not there."""

    reason: str


def attempt(make: Callable[..., Any], *parts: Any) -> Any:
    """`make(*parts)`; a [`LeftOut`] where that fails, or the first of `parts` that is one."""
    for part in parts:
        if isinstance(part, LeftOut):
            return part
    try:
        return make(*parts)
    except FAILURES as error:
        return LeftOut(" ".join(str(error).split()) or type(error).__name__)
