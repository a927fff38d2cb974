"""Masks drawn over the frames they belong to: as a film, as a strip, and in rows for comparison."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ..data.media import read_clip, write_clip

if TYPE_CHECKING:
    from .segmentation import ClipSegmentation

FRAMES_PER_SECOND = 10
# A colour that few things have, at a strength that leaves them recognisable.
COLOUR = np.array([255, 0, 128])
STRENGTH = 0.45
# One pixel of border for each so many of the shorter side.
PIXELS_PER_BORDER = 200
CELL_WIDTH, GAP, MARGIN_WIDTH, TITLE_HEIGHT, FONT_SIZE = 240, 4, 110, 24, 16


def draw_mask(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame with the pixels of a mask tinted and their border drawn.

    Args:
        frame (`np.ndarray` of shape `(height, width, 3)`, uint8 RGB):
            The picture.
        mask (`np.ndarray` of shape `(height, width)`, bool):
            What sounds.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8.

    Raises:
        ValueError: the mask is not as large as the frame.
    """
    if frame.shape[:2] != mask.shape:
        raise ValueError(f"a mask must be as large as its frame, {frame.shape[:2]}, but is {mask.shape}; resize it.")
    drawn = frame.copy()
    _paint(drawn, mask, _border(mask))
    return drawn


def write_overlay(segmentation: ClipSegmentation, path: str | os.PathLike[str]) -> Path:
    """Writes the clip as mp4, ten frames a second and with its sound, the mask of the nearest second drawn on each.

    The file appears under its name only when it is complete. The pictures are read anew from `segmentation.path`; an
    odd last row or column is cut off, since the codec takes even sizes only.

    Args:
        segmentation ([`ClipSegmentation`]):
            What [`segment_clip`] returned.
        path (`str` or `os.PathLike`):
            The file to write; its folder must exist.

    Returns:
        `Path`: the file.

    Raises:
        MediaError: the clip cannot be read any more.
    """
    count = max(1, math.floor(segmentation.duration_seconds * FRAMES_PER_SECOND))
    times = np.arange(count) / FRAMES_PER_SECOND
    options = {"frame_times_seconds": times.tolist(), "max_seconds": count / FRAMES_PER_SECOND}
    frames = read_clip(segmentation.path, read_audio=False, **options).frames
    # a stream may change its size on the way, and here other frames may come first
    masks = [_resized(mask, frames.shape[1:3]) for mask in segmentation.masks]
    borders = [_border(mask) for mask in masks]
    nearest = np.abs(times[:, None] - segmentation.times_seconds).argmin(axis=1)
    for frame, index in zip(frames, nearest, strict=True):
        _paint(frame, masks[index], borders[index])
    height, width = (size - size % 2 for size in frames.shape[1:3])
    frames = frames[:, :height, :width]
    write_clip(path, frames, FRAMES_PER_SECOND, segmentation.waveform, segmentation.sampling_rate)
    return Path(path)


def write_strip(segmentation: ClipSegmentation, path: str | os.PathLike[str]) -> Path:
    """Writes a PNG of two rows, the frames and what sounds in them, under each other; whole or not at all.

    Args:
        segmentation ([`ClipSegmentation`]):
            What [`segment_clip`] returned.
        path (`str` or `os.PathLike`):
            The file to write; its folder must exist.

    Returns:
        `Path`: the file.
    """
    titles = [
        f"{time:.1f} s: {100 * share:.1f} %"
        for time, share in zip(segmentation.times_seconds, segmentation.shares, strict=True)
    ]
    picture = draw_comparison(segmentation.frames, {"sounding": segmentation.masks}, titles)
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    picture.save(unfinished, format="PNG")
    os.replace(unfinished, path)
    return path


def draw_comparison(
    frames: np.ndarray, masks: dict[str, np.ndarray], column_titles: Sequence[str] = ()
) -> Image.Image:
    """Rows of pictures under each other: the frames, then for each set of masks the frames with those drawn on them.

    Args:
        frames (`np.ndarray` of shape `(frames, height, width, 3)`, uint8 RGB):
            The frames, of one clip or of several.
        masks (`dict[str, np.ndarray]`):
            By title of the row, such as `"ground truth"`, `"teacher"` and `"student"`, bool masks `(frames, height,
            width)`.
        column_titles (sequence of `str`, *optional*):
            What is written above each column.

    Returns:
        `PIL.Image.Image`: RGB, each frame 240 pixels wide.

    Raises:
        ValueError: masks that are not as many or not as large as the frames.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_emktd.hub import draw_comparison

    >>> frames = np.zeros((5, 90, 120, 3), np.uint8)
    >>> draw_comparison(frames, {"student": frames[..., 0] > 0}).size
    (1330, 368)
    ```"""
    rows = {"frame": list(frames)}
    for title, row in masks.items():
        rows[title] = [draw_mask(frame, mask) for frame, mask in zip(frames, row, strict=True)]
    return _grid(rows, column_titles)


def _grid(rows: dict[str, list[np.ndarray]], column_titles: Sequence[str]) -> Image.Image:
    pictures = next(iter(rows.values()))
    cell_height = max(1, round(CELL_WIDTH * pictures[0].shape[0] / pictures[0].shape[1]))
    top = TITLE_HEIGHT if column_titles else 0
    size = (MARGIN_WIDTH + len(pictures) * (CELL_WIDTH + GAP), top + len(rows) * (cell_height + GAP))
    grid = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT_SIZE)
    for column, title in enumerate(column_titles):
        draw.text((MARGIN_WIDTH + column * (CELL_WIDTH + GAP), GAP), title, "black", font)
    for row, (title, cells) in enumerate(rows.items()):
        y = top + row * (cell_height + GAP)
        draw.text((GAP, y + cell_height // 2), title, "black", font, anchor="lm")
        for column, cell in enumerate(cells):
            resized = Image.fromarray(cell).resize((CELL_WIDTH, cell_height), Image.Resampling.BICUBIC)
            grid.paste(resized, (MARGIN_WIDTH + column * (CELL_WIDTH + GAP), y))
    return grid


def _paint(frame: np.ndarray, mask: np.ndarray, border: np.ndarray) -> None:
    frame[mask] = np.rint((1 - STRENGTH) * frame[mask] + STRENGTH * COLOUR)
    frame[border] = COLOUR


def _border(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels of a mask, more of them the larger the picture."""
    image = Image.fromarray(mask.astype(np.uint8))
    for _ in range(1 + min(mask.shape) // PIXELS_PER_BORDER):
        image = image.filter(ImageFilter.MinFilter(3))
    return mask & (np.asarray(image) == 0)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
