"""The page of a report, from its parts and a template in which everything is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import plain_text
from .left_out import LeftOut

TEMPLATE = "page_template.html"


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
    """[`plain_text.visible`] of text that is not markup of our own."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else plain_text.visible(value)
