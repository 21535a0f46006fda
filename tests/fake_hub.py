"""A hub of one user that takes every repository and file, in this process; what it got can be looked at."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "someone"


class FakeHub(ThreadingHTTPServer):
    def __init__(self, *, public: tuple[str, ...] = (), refuses: str = "") -> None:
        """`public`: repositories that are there, as `models/owner/name`; `refuses`: a path answered with 403."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.public, self.refuses = public, refuses
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        """`models/owner/name/README.md` -> content."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        if self.path.startswith("/api/whoami"):
            return self._reply({"name": NAME, "type": "user", "auth": {}})
        repo = self.path.removeprefix("/api/").partition("?")[0]
        if repo in self.server.public:
            return self._reply({"id": repo.partition("/")[2], "private": False, "siblings": []})
        return self._reply({"error": "Repository not found"}, 404, code="RepoNotFound")

    def do_POST(self) -> None:
        body = self._body()
        if self.server.refuses and self.server.refuses in self.path:
            return self._reply({"error": "You may not write here"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created.append(asked)
            repo = f"{asked['organization']}/{asked['name']}"
            return self._reply({"url": f"{self.server.address}/{repo}", "id": repo})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._reply({"files": files})
        if "/commit/" in self.path:
            repo = self.path.removeprefix("/api/").partition("/commit/")[0]
            for item in map(json.loads, body.splitlines()):
                if item["key"] == "file":
                    self.server.files[f"{repo}/{item['value']['path']}"] = base64.b64decode(item["value"]["content"])
            address = f"{self.server.address}/{repo}"
            return self._reply({"commitUrl": f"{address}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})
        return self._reply({"warnings": [], "errors": []})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _reply(self, values: dict[str, Any], status: int = 200, *, code: str = "") -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


@contextmanager
def fake_hub(**how: Any) -> Iterator[FakeHub]:
    hub = FakeHub(**how)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
