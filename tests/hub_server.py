"""A Hub for tests: the part of the Hugging Face Hub's HTTP API that a push, a download of a model and the streaming of
a data set speak.

    with HubServer() as hub:
        env = hub.environment(cache_dir)    # for a subprocess: huggingface_hub reads HF_ENDPOINT when it is imported

Repositories live in memory; it listens on 127.0.0.1 only. `hub.break_next` lets it fail as a Hub may.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITE_TOKEN = "hf_write"
READ_TOKEN = "hf_read"
USER = "tester"
NO_PROXY = "127.0.0.1,localhost"
_FIRST_COMMIT = "0" * 40


@dataclass
class Repo:
    """Files of every commit, `{path: content}`, and the commit that each branch points to."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {_FIRST_COMMIT: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": _FIRST_COMMIT})
    messages: list[str] = field(default_factory=list)

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """
    What goes wrong with the next `times` requests of a method whose path matches a pattern.

    Args:
        status: answered in place of the right answer, with `headers` and `message`.
        drop: the connection ends, `"before"` the request is looked at, `"after"` it is done but not answered, or
            `"half"` way through the answer.
        seconds: an answer takes, piece by piece.
        wrong: the content is another of the same size.
        meanwhile: called before the request is looked at.
    """

    method: str
    pattern: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "broken on purpose"
    drop: str = ""
    seconds: float = 0.0
    wrong: bool = False
    meanwhile: Callable[[], None] | None = None


class HubServer:
    """The server, on a free port while the `with` block lasts.

    Attributes:
        repos: by id.
        requests: `(method, path)` of all requests so far.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self._api, self.url = self._listen("127.0.0.1")
        # large files come from another host, as from the Hub's CDN: clients take a redirect there differently
        self._storage, self.storage_url = self._listen("localhost")

    def _listen(self, host: str) -> tuple[ThreadingHTTPServer, str]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.hub = self
        return server, f"http://{host}:{server.server_port}"

    def __enter__(self) -> Self:
        for server in (self._api, self._storage):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for server in (self._api, self._storage):
            server.shutdown()
            server.server_close()

    def break_next(self, method: str, pattern: str, **what: Any) -> None:
        """See [`Fault`]."""
        self.faults.append(Fault(method, pattern, **what))

    def fault_of(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.pattern, path):
                fault.times -= 1
                return fault
        return None

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return repo.commits[repo.branches[revision]]

    def environment(self, cache: Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Environment of a process whose Hub this is."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": NO_PROXY}
        return env | ({"HF_TOKEN": token} if token else {})


class HubError(Exception):
    """An answer that is an error, with the Hub's `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._dispatch(
            [
                (r"/api/whoami-v2", self._whoami),
                (r"/api/(?:models|datasets)/([^/]+/[^/]+)/revision/([^/]+)", self._model_info),
                (r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", self._tree),
                (r"/api/(?:models|datasets)/([^/]+/[^/]+)", self._model_info),
                (r"/cdn/([0-9a-f]{64})", self._large_file),
                (r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
            ]
        )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._dispatch(
            [
                (r"/api/repos/create", self._create),
                (r"/api/validate-yaml", self._validate_yaml),
                (r"/api/(?:models|datasets)/([^/]+/[^/]+)/branch/([^/]+)", self._create_branch),
                (r"/api/(?:models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
                (r"/api/(?:models|datasets)/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
                (r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", self._paths_info),
                (r"/(?:datasets/)?(.+)\.git/info/lfs/objects/batch", self._lfs_batch),
            ]
        )

    def do_PUT(self) -> None:
        self._dispatch([(r"/lfs/([0-9a-f]{64})", self._lfs_upload)])

    def _dispatch(self, routes: list) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        self.body = self._read_body()
        self.fault = self.hub.fault_of(self.command, path)
        if self.fault is not None and self.fault.meanwhile:
            self.fault.meanwhile()
        if self.fault is not None and self.fault.drop == "before":
            return self._hang_up()
        try:
            if self.fault is not None and self.fault.status:
                raise HubError(self.fault.status, self.fault.message, headers=self.fault.headers)
            for pattern, handle in routes:
                if match := re.fullmatch(pattern, path):
                    return handle(*map(unquote, match.groups()))
            raise HubError(404, f"{self.command} {path} is not part of this Hub")
        except HubError as error:
            headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
            headers |= error.headers
            return self._json({"error": str(error)}, error.status, headers)

    # reading

    def _whoami(self) -> None:
        if self._token() is None:
            raise HubError(401, "Invalid username or password.")
        self._json({"type": "user", "name": USER, "auth": {"type": "access_token"}})

    def _model_info(self, repo_id: str, revision: str = "main") -> None:
        repo, commit = self._readable(repo_id, revision)
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        self._json({"id": repo_id, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})

    def _tree(self, repo_id: str, revision: str, folder: str) -> None:
        repo, commit = self._readable(repo_id, revision)
        files = {path: content for path, content in repo.commits[commit].items() if path.startswith(folder)}
        if not files:
            raise HubError(404, f"{folder} is not in {repo_id}", "EntryNotFound")
        self._json([self._tree_entry(path, content) for path, content in files.items()])

    def _paths_info(self, repo_id: str, revision: str) -> None:
        repo, commit = self._readable(repo_id, revision)
        asked = parse_qs(self.body.decode())["paths"] if self.body[:1] != b"{" else json.loads(self.body)["paths"]
        files = repo.commits[commit]
        folders = [path for path in asked if any(file.startswith(f"{path}/") for file in files)]
        entries = [self._tree_entry(path, files[path]) for path in asked if path in files]
        self._json(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])

    def _tree_entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if is_large(path):
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 135}
        return entry

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repo, commit = self._readable(repo_id, revision)
        content = repo.commits[commit].get(path)
        if content is None:
            raise HubError(404, f"{path} is not in {repo_id}", "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit}
        if not is_large(path):
            return self._send(200, content, {**headers, "ETag": f'"{blob_id(content)}"'})
        oid = sha256(content)
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return self._send(302, b"", headers | {"Location": f"{self.hub.storage_url}/cdn/{oid}"})

    def _large_file(self, oid: str) -> None:
        self._send(200, self.hub.large_files[oid], {"ETag": f'"{oid}"'})

    # writing

    def _create(self) -> None:
        self._require_write()
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        prefix = "datasets/" if asked.get("type") == "dataset" else ""
        answer = {"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repos:
            return self._json({**answer, "error": "You already created this model repo"}, 409)
        self.hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
        return self._json(answer)

    def _validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(head[1]) if head else None
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        return self._json({"errors": [], "warnings": warnings})

    def _create_branch(self, repo_id: str, branch: str) -> None:
        repo, commit = self._writable(repo_id, "main")
        if branch in repo.branches:
            raise HubError(409, f"Reference already exists: {branch}")
        repo.branches[branch] = commit
        self._json({})

    def _preupload(self, repo_id: str, revision: str) -> None:
        repo, commit = self._writable(repo_id, revision)
        old = repo.commits[commit]
        paths = [item["path"] for item in json.loads(self.body)["files"]]
        self._json(
            {
                "files": [
                    {
                        "path": path,
                        "uploadMode": "lfs" if is_large(path) else "regular",
                        "shouldIgnore": False,
                        "oid": self._known_id(path, old[path]) if path in old else None,
                    }
                    for path in paths
                ]
            }
        )

    @staticmethod
    def _known_id(path: str, content: bytes) -> str:
        return sha256(content) if is_large(path) else blob_id(content)

    def _lfs_batch(self, repo_id: str) -> None:
        self._writable(repo_id, "main")
        objects = []
        for item in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.storage_url}/lfs/{item['oid']}", "header": {}}}
            known = item["oid"] in self.hub.large_files
            objects.append({**item, **({} if known else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_upload(self, oid: str) -> None:
        if sha256(self.body) != oid:
            raise HubError(422, f"the content of {oid} has another hash")
        self.hub.large_files[oid] = self.body
        self._send(200, b"", {})

    def _commit(self, repo_id: str, revision: str) -> None:
        repo, parent = self._writable(repo_id, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(repo.commits[parent])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                repo.messages.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
        commit = hashlib.sha1(parent.encode() + self.body).hexdigest()
        repo.commits[commit], repo.branches[revision] = files, commit
        prefix = "datasets/" if "/api/datasets/" in self.path else ""
        url = f"{self.hub.url}/{prefix}{repo_id}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    # who may do what

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return token if token in (WRITE_TOKEN, READ_TOKEN) else None

    def _require_write(self) -> None:
        if self._token() is None:
            raise HubError(401, "Invalid username or password.")
        if self._token() == READ_TOKEN:
            raise HubError(403, "Forbidden: this token has no write access.")

    def _readable(self, repo_id: str, revision: str) -> tuple[Repo, str]:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self._token() is None):
            raise HubError(404 if self._token() else 401, f"Repository not found: {repo_id}", "RepoNotFound")
        commit = repo.resolve(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, commit

    def _writable(self, repo_id: str, revision: str) -> tuple[Repo, str]:
        self._require_write()
        return self._readable(repo_id, revision)

    # HTTP

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, answer: dict | list, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if self.fault is not None and self.fault.drop == "after":
            return self._hang_up()
        if self.fault is not None and self.fault.wrong:
            content = bytes(255 - byte for byte in content)
        if status == 200 and (part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            status, content = 206, content[first : last + 1]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(content)

    def _write(self, content: bytes) -> None:
        if self.fault is None:
            self.wfile.write(content)
        elif self.fault.drop == "half":
            self.wfile.write(content[: len(content) // 2])
            self._hang_up()
        else:
            for start in range(0, len(content), max(1, len(content) // 10)):
                self.wfile.write(content[start : start + max(1, len(content) // 10)])
                time.sleep(self.fault.seconds / 10)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def is_large(path: str) -> bool:
    """Weights go through large-file storage, as the Hub's default .gitattributes has it."""
    return path.endswith(".safetensors")


def blob_id(content: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
