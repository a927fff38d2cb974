"""One configuration language for every script: dataclasses from the command line, a YAML or a JSON file."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .process_group import join_on_cpu_without_accelerator

TOKEN = re.compile(r"hf_\w+")


def parse_arguments(
    dataclass_types: Sequence[type],
    description: str | None,
    arguments: list[str] | None = None,
    *,
    positional: str | None = None,
) -> tuple[Any, ...]:
    """
    Instances of `dataclass_types` from the command line, with `--config FILE` for a YAML or JSON file of the same
    option names. What stands on the command line wins over the file.

    Args:
        description: the script's docstring, printed by `--help`.
        arguments: defaults to `sys.argv[1:]`.
        positional: name of a list field that is also filled by the arguments that come without an option.

    A wrong option, value or file ends the program with status 2 and one line that says what was expected.
    """
    join_on_cpu_without_accelerator()
    parser = _Parser(dataclass_types, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action=_Read,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="YAML or JSON file with options under the names of this list; the command line wins over it.",
    )
    if positional is not None:
        parser.add_argument(positional, nargs="*", default=argparse.SUPPRESS)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        arguments = _options_of_config(arguments, parser) + arguments
        *parsed, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    # what dataclasses raise for values that do not fit, also for a missing package or file that a value asks for
    except (ValueError, TypeError, ImportError, OSError) as error:
        parser.error(str(error))
    if unknown:
        parser.error(parser.unknown_options(unknown))
    return tuple(parsed)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The docstring as it stands, and every default."""


class _Read(argparse.Action):
    """An option that was looked up before parsing: nothing is stored."""

    def __call__(self, parser, namespace, values, option_string=None):
        pass


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; argparse's own prints the usage first, here hundreds of lines."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")

    @property
    def option_names(self) -> list[str]:
        return [field.name for dataclass_type in self.dataclass_types for field in fields(dataclass_type)]

    def unknown_options(self, options: Iterable[str]) -> str:
        """`unknown options: --learning-rat (did you mean --learning_rate?)`"""
        return "unknown options: " + ", ".join(map(self._with_suggestion, options))

    def _with_suggestion(self, option: str) -> str:
        dashes = "--" if option.startswith("--") else ""
        name = option.removeprefix(dashes).partition("=")[0].replace("-", "_")
        near = difflib.get_close_matches(name, self.option_names, n=1)
        shown = TOKEN.sub("hf_...", option)  # of a mistyped --hub_token
        return f"{shown} (did you mean {dashes}{near[0]}?)" if near else shown


def _options_of_config(arguments: list[str], parser: _Parser) -> list[str]:
    """The options of the `--config` file as they would be typed, so that they go through the same checks."""
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.error = parser.error
    finder.add_argument("--config")
    path = finder.parse_known_args(arguments)[0].config
    if path is None:
        return []
    options = _read_config(path)
    unknown = [name for name in options if name not in parser.option_names]
    if unknown:
        raise ValueError(f"--config {path}: {parser.unknown_options(unknown)}")
    # null can be said in a file only
    parser.set_defaults(**{name: None for name, value in options.items() if value is None})
    typed = {name: _typed(name, value) for name, value in options.items() if value is not None}
    # lists first: they would take what follows them for their own
    tokens = [token for name in sorted(typed, key=lambda name: len(typed[name]) == 1) for token in typed[name]]
    return [*tokens, f"--config={path}"]


def _typed(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def _read_config(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"--config: there is no file {path}.")
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is neither YAML nor JSON ({error}).") from error
    if not isinstance(options, dict):
        raise ValueError(f"--config: {path} must hold option names and values, got {type(options).__name__}.")
    return options
