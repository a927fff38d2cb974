"""Which room imports which is what docs/architecture.md says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hf_emktd"
ROOMS = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from run_nodes(child)


def imported(node: ast.AST, folder: tuple[str, ...]) -> list[str]:
    """Dotted names that a statement in a file of a folder imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = folder[: len(folder) - node.level + 1] if node.level else ()
    stem = [*above, *([node.module] if node.module else [])]
    return [".".join([*stem, alias.name]) for alias in node.names]


def rooms_imported_by(room: str) -> set[str]:
    found = set()
    for file in (PACKAGE / room).rglob("*.py"):
        folder = file.relative_to(PACKAGE.parent).parent.parts
        for node in run_nodes(ast.parse(file.read_text(encoding="utf-8"))):
            names = [name.split(".") for name in imported(node, folder)]
            found |= {name[1] for name in names if name[0] == "hf_emktd" and len(name) > 1}
    return (found & ROOMS) - {room}


def table() -> dict[str, set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", rooms)) for room, rooms in lines}


def test_rooms_import_what_the_table_says():
    assert {room: rooms_imported_by(room) for room in sorted(ROOMS)} == dict(sorted(table().items()))


def test_imports_for_type_checkers_do_not_count():
    tree = ast.parse("if TYPE_CHECKING:\n    from ..hub import a\nfrom ..data.media import b\nfrom .. import models")
    names = [name for node in run_nodes(tree) for name in imported(node, ("hf_emktd", "search"))]
    assert names == ["hf_emktd.data.media.b", "hf_emktd.models"]
