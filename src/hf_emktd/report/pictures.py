"""Figures and pictures as parts of a page: SVG that follows its colours, PNG inside of the page."""

from __future__ import annotations

import base64
import re
from io import BytesIO, StringIO

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

SVG_OPTIONS = {"svg.fonttype": "none", "svg.hashsalt": "hf_emktd"}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
# What matplotlib writes for its defaults, and the colours of the page in their place.
PAGE_COLOURS = {"#000000": "currentColor", "#ffffff": "var(--surface)", "#cccccc": "var(--line)"}
# Marks and clip paths are found by their id, which must be one figure's alone.
ID = re.compile(r'(\bid="|href="#|url\(#)')
SIZE = re.compile(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"')
POINTS_TO_PIXELS = 4 / 3


def to_svg(figure: Figure, name: str) -> Markup:
    """
    A figure as an `<svg>` whose text is text and whose black and white follow the page's colours.

    Args:
        name: of letters and digits, another for every figure of a page.
    """
    buffer = StringIO()
    with matplotlib.rc_context(SVG_OPTIONS):
        figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
    text = buffer.getvalue()
    text = ID.sub(rf"\g<1>{name}-", text[text.index("<svg") :])
    for ours, theirs in PAGE_COLOURS.items():
        text = text.replace(ours, theirs)
    width = float(SIZE.search(text)[2]) * POINTS_TO_PIXELS
    return Markup(SIZE.sub(rf'\1 style="width: {width:.0f}px"', text))


def to_data_uri(image: Image.Image) -> str:
    """A PNG of at most 256 colours, as small as that makes it."""
    buffer = BytesIO()
    if image.mode == "RGB":
        image = image.quantize(256)
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def heat_map(values: np.ndarray, low: float, high: float, colours: str, most_pixels: int = 192) -> Image.Image:
    """
    Values `(rows, columns)` as colours of a matplotlib colour map between `low` and `high`, one pixel each; of more
    than `most_pixels` on a side means of neighbours.
    """
    image = Image.fromarray(np.asarray(values, dtype=np.float32))
    size = tuple(min(side, most_pixels) for side in image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    span = high - low or 1.0
    levels = np.rint(255 * (np.asarray(image) - low) / span).clip(0, 255).astype(np.uint8)
    mapped = Image.fromarray(levels, "L").convert("P")
    palette = matplotlib.colormaps[colours](np.arange(256), bytes=True)[:, :3]
    mapped.putpalette(palette.tobytes())
    return mapped


def gradient(colours: str) -> str:
    """A matplotlib colour map as the stops of a CSS gradient."""
    return ", ".join(
        matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps[colours](np.linspace(0, 1, 8))
    )
