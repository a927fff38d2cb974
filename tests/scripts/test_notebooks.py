"""The notebooks parse and name what exists; they are run by tests/torture/test_notebooks_torture.py."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
BASH = "%%bash\n"
# a script by its path from the notebook, or a module after -m
COMMAND = re.compile(r"^\s*python (?:-m )?(\S+)", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)")


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def commands() -> list[pytest.ParameterSet]:
    """Every shell cell."""
    texts = [(path, "".join(cell["source"])) for path in NOTEBOOKS.glob("*.ipynb") for cell in cells_of(path)]
    shell = [(path.stem, text.removeprefix(BASH)) for path, text in texts if text.startswith(BASH)]
    return [pytest.param(text, id=f"{name}-{index}") for index, (name, text) in enumerate(sorted(shell))]


def help_of(command: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with contextlib.suppress(SystemExit):
        if command.endswith(".py"):
            runpy.run_path(str(NOTEBOOKS / command), run_name="__main__")
        else:
            monkeypatch.delitem(sys.modules, command, raising=False)
            runpy.run_module(command, run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_code_cells_parse_and_have_no_outputs(path):
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for text in ("".join(cell["source"]) for cell in code):
        if not text.startswith(BASH):
            ast.parse(text)


@pytest.mark.parametrize("text", commands())
def test_shell_cells_name_scripts_and_options_that_exist(text, monkeypatch, capsys):
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    known = {flag for command in COMMAND.findall(text) for flag in FLAG.findall(help_of(command, monkeypatch, capsys))}
    assert set(FLAG.findall(text)) <= known


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    text = "".join("".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links or path.stem == "encoders_and_export"
    assert all((NOTEBOOKS / link).exists() for link in links)
