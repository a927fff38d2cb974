"""The page of a report, from its parts and a template in which everything is escaped."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .left_out import LeftOut

TEMPLATE = "page_template.html"
# Marks that change the direction of what follows them, beyond where they stand.
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def render(parts: dict[str, Any]) -> str:
    """
    The HTML document.

    Args:
        parts: by name what the template shows; a [`LeftOut`] in place of a part becomes its reason.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["left_out"] = lambda part: isinstance(part, LeftOut)
    return environment.get_template(TEMPLATE).render(parts).lstrip()


def visible(value: Any) -> Any:
    """Text with a mark in place of each control character, lone surrogate and change of direction."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_hidden(character) else character for character in value)


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in DIRECTIONS
