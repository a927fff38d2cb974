"""A page in the browser that answers one video: events by sense, or masks of what sounds."""

from .answers import Answer, Respondent
from .limits import UploadLimits
from .render import render_answers, render_refusal
from .server import build_page, serve

__all__ = ["Answer", "Respondent", "UploadLimits", "build_page", "render_answers", "render_refusal", "serve"]
