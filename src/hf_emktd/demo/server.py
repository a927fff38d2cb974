"""The Gradio page: one upload in, one answer out, nothing kept."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.media import MediaError, read_clip
from ..distillation.entropy_monitor import SEGMENTATION
from .answers import Respondent
from .limits import UploadLimits
from .render import render_answers, render_message, render_refusal

if TYPE_CHECKING:
    import gradio
    import numpy as np

INSTALLATION = "the demo needs Gradio: pip install 'hf_emktd[demo]'"
TITLE = "What it hears, what it sees"
THUMBNAILS = 5
# What was uploaded and never asked about is deleted after so many seconds; looked for every so many.
KEPT_SECONDS, SWEEP_SECONDS = 600, 60
WAITING = 16
# What a request has beside the file: its name, and the lines around it.
ENVELOPE_BYTES = 2**16
# The page is whole without any other server; the browser is told to ask none, not even if a label could slip by.
CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'"
)


# Cutting a video needs a program from elsewhere.
STYLE = "button[aria-label='Trim video to selection'] {display: none}"


def build_page(
    respondents: Sequence[Respondent], limits: UploadLimits | None = None, *, top_k: int = 5
) -> gradio.Blocks:
    """
    The page, not yet served.

    Args:
        respondents (sequence of [`Respondent`]): The model, and its teacher where there is one.
        limits ([`UploadLimits`], *optional*): What a file may be.
        top_k (`int`, *optional*, defaults to 5): Labels for each sense.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: the models are for different tasks.
    """
    gradio = _import_gradio()
    limits = limits or UploadLimits()
    tasks = {respondent.task for respondent in respondents}
    if len(tasks) != 1:
        raise ValueError(f"model and teacher must be for one task, got {' and '.join(sorted(tasks))}.")

    def ask(path: str | None) -> tuple[None, str]:
        try:
            return None, respond(path, respondents, limits, top_k)
        finally:
            if path is not None:
                Path(path).unlink(missing_ok=True)

    (task,) = tasks
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS), fill_width=True
    ) as page:
        gradio.HTML(_introduction(task, limits))
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                # unmirrored and unconverted: the file goes to the model as it is
                camera = gradio.WebcamOptions(mirror=False)
                video = gradio.Video(label="Video", sources=["upload", "webcam"], webcam_options=camera, height=400)
                _take_uploads_only(video)
                button = gradio.Button("Ask", variant="primary")
            with gradio.Column(scale=2, min_width=320):
                answer = gradio.HTML(label="Answer")
        button.click(ask, video, [video, answer], api_name="ask")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def respond(
    path: str | os.PathLike[str] | None, respondents: Sequence[Respondent], limits: UploadLimits, top_k: int = 5
) -> str:
    """
    The answer to a file as HTML, or why there is none.

    Args:
        path (`str` or `os.PathLike`, *optional*): The file.
        respondents (sequence of [`Respondent`]): Who is asked.
        limits ([`UploadLimits`]): What it may be.
        top_k (`int`, *optional*, defaults to 5): Labels for each sense.
    """
    if path is None:
        return render_message("Choose or record a video first")
    path = Path(path)
    try:
        duration = limits.check(path, respondents[0].task)
        answers = [respondent.answer(path, duration, top_k) for respondent in respondents]
        # masks come with a film of their own
        frames = None if respondents[0].task == SEGMENTATION else _thumbnails(path, duration)
        return render_answers(path.name, duration, answers, frames)
    except MediaError as error:
        return render_refusal(error)


def serve(
    page: gradio.Blocks,
    limits: UploadLimits | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    **options: Any,
) -> Any:
    """
    Serves the page until it is interrupted.

    Args:
        page (`gradio.Blocks`): From [`build_page`].
        limits ([`UploadLimits`], *optional*): An upload is cut off where it grows larger.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): The address it listens on; by default this machine's own.
        port (`int`, *optional*): By default the first free one from 7860.
        share (`bool`, *optional*, defaults to `False`): Whether Gradio's servers give it a public address.
        options: Others of `gradio.Blocks.launch`, such as `prevent_thread_lock=True`.

    Returns:
        What `gradio.Blocks.launch` returns.

    Raises:
        OSError: the port is taken.
    """
    return page.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=(limits or UploadLimits()).max_file_bytes,
        app_kwargs={"middleware": [(_ContentPolicy, (), {}), (_BodyLimit, (limits or UploadLimits(),), {})]},
        css=STYLE,
        footer_links=["api"],
        ssr_mode=False,
        enable_monitoring=False,
        **options,
    )


def _import_gradio() -> Any:
    """Gradio, told to send nothing home and to keep uploads where no other program of it does."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", _upload_folder().name)
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"{INSTALLATION} ({error})") from error
    return gradio


@cache
def _upload_folder() -> tempfile.TemporaryDirectory:
    """Readable by this user only, and gone with this process."""
    return tempfile.TemporaryDirectory(prefix="hf_emktd_demo_")


def _introduction(task: str, limits: UploadLimits) -> str:
    asked = "which pixels sound" if task == SEGMENTATION else "which event it shows"
    return (
        f"<h2>{TITLE}</h2><p>Drop in a video or record one and ask {asked}. At most {limits.max_file_mb:g} MB and "
        f"{limits.max_seconds:g} seconds; it is deleted once it is answered.</p>"
    )


def _take_uploads_only(video: gradio.Video) -> None:
    """A caller of the API may name an address in place of a file, which Gradio would fetch, however large it is."""
    move = video.async_move_resource_to_block_cache

    async def move_upload(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise ValueError("an address is not fetched; upload the file")
        return await move(path)

    video.async_move_resource_to_block_cache = move_upload


def _thumbnails(path: Path, duration: float) -> np.ndarray | None:
    return read_clip(path, num_frames=THUMBNAILS, max_seconds=max(duration, 1), read_audio=False).frames


class _BodyLimit:
    """Ends requests that bring more than one file may have, however many files, or bring it too slowly."""

    def __init__(self, app: Callable[..., Awaitable[None]], limits: UploadLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[dict[str, Any]]], send: Any) -> None:
        from starlette.formparsers import MultiPartException  # for which Gradio removes what has come of an upload

        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        left, deadline = self.limits.max_file_bytes + ENVELOPE_BYTES, time.monotonic() + self.limits.max_upload_seconds

        async def receive_within_limits() -> dict[str, Any]:
            nonlocal left, deadline
            try:
                message = await asyncio.wait_for(receive(), deadline and max(deadline - time.monotonic(), 0))
            except TimeoutError as error:
                raise MultiPartException(f"not whole after {self.limits.max_upload_seconds:g} seconds") from error
            left -= len(message.get("body", b""))
            if left < 0:
                raise MultiPartException(f"larger than the maximum allowed size of {self.limits.max_file_mb:g} MB")
            if not message.get("more_body"):
                deadline = None  # what is waited for now is the end of the answer
            return message

        try:
            await self.app(scope, receive_within_limits, send)
        except MultiPartException as error:
            await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": error.message.encode("utf-8")})


class _ContentPolicy:
    """Adds `CONTENT_POLICY` to every answer of a server."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", CONTENT_POLICY.encode("ascii"))
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy)
