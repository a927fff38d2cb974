"""The page as Gradio serves it, asked over loopback."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio")
import gradio_client  # noqa: E402
from huggingface_hub.utils import httpx  # noqa: E402

from hf_emktd.demo import UploadLimits, build_page, serve  # noqa: E402


@pytest.fixture(scope="module")
def served(student, teacher):
    """Its address and the page."""
    limits = UploadLimits(max_file_mb=0.1)
    page = build_page([student, teacher], limits)
    _, address, _ = serve(page, limits, prevent_thread_lock=True, quiet=True)
    yield address, page
    page.close()


@pytest.fixture(scope="module")
def client(served) -> gradio_client.Client:
    return gradio_client.Client(served[0], verbose=False, analytics_enabled=False)


def uploads() -> list[Path]:
    return [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]


def ask(client: gradio_client.Client, path: Path) -> str:
    cleared, answer = client.predict(gradio_client.handle_file(path), api_name="/ask")
    assert cleared is None  # the page takes the next one
    return answer


@pytest.mark.parametrize(("name", "said"), [("clip", "Student: small&lt;b&gt;"), ("corrupt", "cannot be read")])
def test_answers_and_keeps_nothing(client, media, name, said):
    answer = ask(client, media[name])
    assert said in answer and f"{name}.mp4" in answer
    assert uploads() == []
    assert media[name].is_file()  # the caller's own


def test_listens_on_this_machine_only_and_fetches_nothing(served):
    address, page = served
    assert page.server_name == "127.0.0.1" and page.share_url is None and not page.analytics_enabled
    answer = httpx.get(address)
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200 and "default-src 'self'" in policy and "http" not in policy
    assert page.delete_cache == (60, 600)


def test_uploads_are_cut_off_at_their_limit(served, tmp_path):
    large = {"files": ("large.mp4", bytes(200_000))}
    answer = httpx.post(f"{served[0]}gradio_api/upload", files=large)
    assert answer.status_code == 413 and "100000 bytes" in answer.text
    assert uploads() == []


def test_files_of_this_machine_are_not_served(served, media):
    assert httpx.get(f"{served[0]}gradio_api/file={media['clip']}").status_code == 403


def test_models_of_two_tasks_are_refused(student, segmenter):
    with pytest.raises(ValueError, match="must be for one task"):
        build_page([student, segmenter])


def test_a_missing_gradio_is_said_with_the_way_out(student, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_emktd\[demo\]'"):
        build_page([student])
