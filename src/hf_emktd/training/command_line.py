"""One configuration language for every script: dataclasses from the command line, a YAML or a JSON file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_arguments(dataclass_types: Sequence[type], description: str | None, arguments: list[str] | None = None):
    """
    Instances of `dataclass_types` from the command line, with `--config FILE` for a YAML or JSON file of the same
    option names. What stands on the command line wins over the file.

    Args:
        description: the script's docstring, printed by `--help`.
        arguments: defaults to `sys.argv[1:]`.

    A wrong option, value or file ends the program with one line that says what was expected.
    """
    parser = HfArgumentParser(
        dataclass_types, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with options under the names below.")
    arguments = sys.argv[1:] if arguments is None else arguments
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--config")
    config_file = known.parse_known_args(arguments)[0].config
    try:
        if config_file is not None:
            parser.set_defaults(**_read_config(config_file, parser))
        *parsed, rest, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"unknown options: {' '.join(unknown)} (see --help)")
    del rest  # the namespace that holds --config
    return parsed[0] if len(parsed) == 1 else tuple(parsed)


def _read_config(path: str, parser: HfArgumentParser) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"--config: there is no file {path}.")
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is neither YAML nor JSON ({error}).") from error
    if not isinstance(options, dict):
        raise ValueError(f"--config: {path} must hold option names and values, got {type(options).__name__}.")
    known = {action.dest for action in parser._actions}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"--config: {path} has unknown options {', '.join(unknown)} (see --help).")
    return options
