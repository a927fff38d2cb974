"""Answers as HTML in which everything that comes from a file or a model is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..data.media import MediaError
from ..hub.prediction import TITLES
from ..report.page import visible
from .answers import Answer

TEMPLATE = "answer_template.html"
THUMBNAIL_SIZE = (240, 180)


def render_answers(name: str, duration: float, answers: Sequence[Answer], frames: np.ndarray | None = None) -> str:
    """
    The answers to one file.

    Args:
        name (`str`): The file's name.
        duration (`float`): Its seconds.
        answers (sequence of [`Answer`]): The model's, and the teacher's after it where there is one.
        frames (`np.ndarray` of shape `(frames, height, width, 3)`, uint8 RGB, *optional*): Some of its pictures.

    Returns:
        `str`: HTML that fetches nothing: pictures and films are in it.
    """
    thumbnails = [] if frames is None else [_data_address(_thumbnail(frame), "image/jpeg") for frame in frames]
    films = [answer.overlay and _data_address(answer.overlay, "video/mp4") for answer in answers]
    return _render(
        name=name,
        duration=duration,
        answers=list(zip(answers, films, strict=True)),
        thumbnails=thumbnails,
        titles=TITLES,
        comparison=_comparison(answers) if len(answers) == 2 else None,
        refusal=None,
    )


def render_refusal(error: MediaError) -> str:
    """One message for a file that is not answered; it names the file, not where it was kept."""
    name = error.path.name
    reason = error.reason.replace(str(error.path), name)
    return render_message(f"{name} {reason}")


def render_message(message: str) -> str:
    """One sentence instead of an answer."""
    return _render(refusal=message)


def _render(**parts: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(parts)


def _comparison(answers: Sequence[Answer]) -> dict[str, float]:
    student, teacher = answers
    return {
        "parameters": student.parameters / teacher.parameters,
        "speed": teacher.latency_ms / student.latency_ms,
    }


def _thumbnail(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail(THUMBNAIL_SIZE)
    content = BytesIO()
    picture.save(content, format="JPEG", quality=85)
    return content.getvalue()


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
