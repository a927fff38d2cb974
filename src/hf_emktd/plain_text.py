"""Names from files of strangers (labels, clips, folders) as text that a terminal, a page or a card shows as it is."""

from __future__ import annotations

import re
import unicodedata

# Marks that change the direction of what follows them, beyond where they stand.
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKDOWN = re.compile(r"([\\`*\[\]<>|~])|(?<!\w)(_)|(_)(?!\w)")


def visible(text: str) -> str:
    """With a mark in place of each control character, such as those that colour a terminal, of each lone surrogate and
    each change of direction."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_hidden(character) else character for character in text)


def in_one_line(text: str) -> str:
    """[`visible`], with a space for each run of white space."""
    return " ".join(visible(text).split())


def in_markdown(text: str) -> str:
    """As a part of one line of Markdown that is shown as it is: no link, no HTML, no new cell of a table."""
    return MARKDOWN.sub(r"\\\1\2\3", in_one_line(text))


def in_code(text: str) -> str:
    """As a span of code, which Markdown ends at the next backtick."""
    return "`" + in_one_line(text).replace("`", "'") + "`"


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in DIRECTIONS
