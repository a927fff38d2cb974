"""How a script refuses what does not fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..plain_text import in_one_line


@contextmanager
def refusals_in_one_line() -> Iterator[None]:
    """
    Around what a script checks before its work: a model, table or option that does not fit ends the program with its
    reason and status 1, without a traceback. Around the work itself it would hide where a fault lies.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        reason = in_one_line(str(error))
        raise SystemExit(f"{Path(sys.argv[0]).name}: error: {reason}") from error
