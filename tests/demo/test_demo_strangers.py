"""What somebody else may send to a running page: nothing but one upload is read, kept or fetched."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")
from huggingface_hub.utils import httpx

from hf_emktd.demo import UploadLimits, build_page, serve


@pytest.fixture(scope="module")
def address(student):
    limits = UploadLimits(max_file_mb=0.1, max_upload_seconds=1.5)
    page = build_page([student], limits)
    yield serve(page, limits, prevent_thread_lock=True, quiet=True)[1]
    page.close()


@pytest.fixture
def elsewhere():
    """A server that notes whether it was asked."""

    class Handler(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def do_GET(self):
            self.asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/film.mp4", Handler.asked
        server.shutdown()


def uploads() -> list[Path]:
    return [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]


def ask(address: str, path: str) -> str:
    """What a caller of the API is told of a file that it names."""
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    started = httpx.post(f"{address}gradio_api/call/ask", json=data)
    if started.status_code != 200:
        return started.text
    return httpx.get(f"{address}gradio_api/call/ask/{started.json()['event_id']}", timeout=30).text


@pytest.mark.parametrize("name", ["/etc/passwd", "clip", "../../../../etc/passwd"])
def test_files_of_this_machine_are_neither_read_nor_deleted(address, media, name):
    path = str(media["clip"]) if name == "clip" else name
    told = ask(address, path)
    assert "event: error" in told and "root:" not in told and "data:image" not in told
    assert media["clip"].is_file() and Path("/etc/passwd").is_file()


def test_addresses_are_not_fetched(address, elsewhere):
    url, asked = elsewhere
    for given in (url, url.replace("http", "HTTP", 1), "https://localhost.example.invalid/film.mp4"):
        assert "event: error" in ask(address, given)
    assert asked == [] and uploads() == []


def test_many_files_in_one_request_are_one_upload(address):
    """Each is within the limit, together they are not; what has come of them is removed."""
    files = [("files", (f"{index}.mp4", bytes(60_000))) for index in range(5)]
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413
    assert uploads() == []


def test_other_requests_are_cut_off_too(address):
    body = json.dumps({"data": ["x" * 10**6]})
    headers = {"content-type": "application/json"}
    assert httpx.post(f"{address}gradio_api/call/ask", content=body, headers=headers).status_code in (400, 413)


def test_an_upload_that_does_not_come_is_ended(address):
    parts = urlsplit(address)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 50000\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    head += 'Content-Disposition: form-data; name="files"; filename="slow.mp4"\r\n\r\n'
    started = time.monotonic()
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(head.encode() + bytes(1000))
        answer = connection.recv(4096)
    assert b" 400 " in answer.splitlines()[0] + b" " and time.monotonic() - started < 20
    assert uploads() == []


def test_only_loopback_is_listened_to(address):
    """Every address of this machine but loopback refuses the port."""
    others = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; says which of our addresses would
        others.add(probe.getsockname()[0])
    for host in sorted(host for host in others if not host.startswith("127.")):
        with pytest.raises(OSError), socket.create_connection((host, urlsplit(address).port), timeout=2):
            pass
