"""How a script refuses what does not fit, and what no run may do."""

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


def check_output_folder(output_dir: str, **models: str | None) -> None:
    """
    Args:
        output_dir: the run's.
        models: by option the folders or Hub ids of the models that it reads.

    Raises:
        NotADirectoryError: if `output_dir` is a file.
        ValueError: if it is the folder of one of the models, which the run would overwrite.
    """
    if Path(output_dir).is_file():
        raise NotADirectoryError(f"--output_dir {output_dir} is a file; a run is a folder. Choose another name.")
    for option, name in models.items():
        if name is not None and Path(name).is_dir() and Path(name).resolve() == Path(output_dir).resolve():
            raise ValueError(
                f"--output_dir {output_dir} is the folder of --{option}: the run would overwrite the model that it "
                "reads. Choose another folder."
            )
