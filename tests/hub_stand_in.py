"""A local server that answers the requests of huggingface_hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

TOKEN = "hf_a-token-of-the-test"


class LocalServer:
    """Answers requests on this machine in a separate thread."""

    def __init__(self) -> None:
        outer: Any = self  # whose ``answer`` is called with each request

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


class Hub(LocalServer):
    """Keeps the files of repositories, by ``OWNER/NAME`` and path."""

    sha = 40 * "1"

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.gated: set[str] = set()  # repositories whose authors give access on request
        self.breaks: list[int] = []  # bytes after which a download ends, used up one each
        self.ranges: list[str] = []  # of each download: the part that is asked for, or ''
        self.sent: dict[str, bytes] = {}  # content by path, in place of the right one
        self.status: int | None = None  # of every answer, in place of the right one
        super().__init__()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        path = to.path.partition("?")[0]
        self.requests.append(f"{to.command} {path}")
        body = to.rfile.read(int(to.headers.get("Content-Length", 0)))
        if self.status is not None:
            return self.send(to, {"error": "no"}, self.status)
        if to.command == "POST" and to.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(to, {"error": "no token"}, 401)
        if path == "/api/validate-yaml":
            return self.send(to, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(to, json.loads(body))
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if found:
            return self.file(to, found[1], found[2])
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/?(.*)", path)
        if found is None:
            return self.send(to, {"error": "none"}, 404)
        repository, action = found.groups()
        files = self.repositories.get(repository)
        if files is None:
            return self.send(to, {"error": "none"}, 404, {"X-Error-Code": "RepoNotFound"})
        if action.startswith("tree"):
            tree = [{"type": "file", "path": name, "oid": 40 * "0", "size": len(files[name])}
                    for name in files]  # fmt: skip
            return self.send(to, tree)
        if action.startswith("preupload"):
            modes = []
            for file in json.loads(body)["files"]:
                mode = {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                modes.append(mode)
            return self.send(to, {"files": modes})
        if action.startswith("commit"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.url}/{repository}/commit/{self.sha}"
            return self.send(to, {"commitUrl": url, "commitOid": self.sha})
        private = self.private.get(repository, False)
        about = {"id": repository, "sha": self.sha, "private": private}
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        return self.send(to, about | {"siblings": siblings})

    def create(self, to: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        repository = f"{request['organization']}/{request['name']}"
        status = 409 if repository in self.repositories else 200
        self.repositories.setdefault(repository, {})
        private = request.get("visibility") == "private" or request.get("private") is True
        self.private.setdefault(repository, private)
        self.send(to, {"url": f"{self.url}/{repository}"}, status)

    def file(self, to: BaseHTTPRequestHandler, repository: str, name: str) -> None:
        if repository in self.gated:
            return self.send(to, b"", 403, {"X-Error-Code": "GatedRepo"})
        files = self.repositories.get(repository)
        if files is None or name not in files:
            code = "RepoNotFound" if files is None else "EntryNotFound"
            return self.send(to, b"", 404, {"X-Error-Code": code})
        headers = {"ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"'}
        content = self.sent.get(name, files[name])
        if to.command == "HEAD":
            return self.send(to, content, 200, headers)
        part = to.headers.get("Range", "")
        self.ranges.append(part)
        start = int(part.removeprefix("bytes=").rstrip("-") or 0)
        if part:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        end = self.breaks.pop(0) if self.breaks else None
        return self.send(to, content[start:], 206 if part else 200, headers, end)

    def send(
        self,
        to: BaseHTTPRequestHandler,
        content: Any,
        status: int = 200,
        headers: dict[str, str] | None = None,
        end: int | None = None,
    ) -> None:
        """Answer a request; the connection ends after ``end`` bytes of the content."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        to.send_response(status)
        for name, value in {"X-Repo-Commit": self.sha, **(headers or {})}.items():
            to.send_header(name, value)
        to.send_header("Content-Length", str(len(data)))
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(data[:end])


def go_online(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let this process use the stand-in in place of the Hub, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in ("constants", "file_download"):  # versions before 1 have a copy of it
        name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(name, files, raising=False)
    monkeypatch.setattr("compatbench.backbone.load.find_weights.getproxies", dict)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it retries
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
