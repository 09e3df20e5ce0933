"""A server on this machine that answers the few requests which huggingface_hub makes of the hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_a-token-of-the-test"


class LocalServer:
    """Answers on this machine, in a thread of its own."""

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
    """``repositories`` by kind and name, such as ``models/me/coop``: paths and their bytes."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
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
            asked = json.loads(body)
            kind = f"{asked.get('type', 'model')}s"
            place = f"{kind}/{asked['organization']}/{asked['name']}"
            new = place not in self.repositories
            self.repositories.setdefault(place, {})
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.private.setdefault(place, private)
            return self.send(to, {"url": f"{self.url}/{place}"}, 200 if new else 409)
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            files = self.repositories.get(f"{found[1] or 'models/'}{found[2]}")
            return self.file(to, files, found[3])
        place, what = re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/?(.*)", path).groups()
        if (files := self.repositories.get(place)) is None:
            return self.send(to, {"error": "none"}, 404, {"X-Error-Code": "RepoNotFound"})
        if what.startswith("preupload"):
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self.send(to, {"files": modes})
        if what.startswith("commit"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.url}/{place.removeprefix('models/')}/commit/{self.sha}"
            return self.send(to, {"commitUrl": url, "commitOid": self.sha})
        if what.startswith("tree"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for n, b in files.items()
            ]
            return self.send(to, tree)
        about = {"id": place.partition("/")[2], "sha": self.sha, "private": self.private[place]}
        return self.send(to, about | {"siblings": [{"rfilename": name} for name in files]})

    sha = 40 * "1"

    def file(self, to: BaseHTTPRequestHandler, files: dict[str, bytes] | None, name: str) -> None:
        if files is None or name not in files:
            code = "RepoNotFound" if files is None else "EntryNotFound"
            return self.send(to, b"", 404, {"X-Error-Code": code})
        tag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self.send(to, files[name], 200, {"ETag": tag})

    def send(
        self,
        to: BaseHTTPRequestHandler,
        content: Any,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        to.send_response(status)
        for name, value in {"X-Repo-Commit": self.sha, **(headers or {})}.items():
            to.send_header(name, value)
        to.send_header("Content-Length", str(len(data)))
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(data)
