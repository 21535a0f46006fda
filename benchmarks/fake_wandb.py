"""A wandb server of a few answers on this machine: what a run sends, and what a run does when it misbehaves."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mode = Literal["works", "fails", "hangs", "closes", "forbids"]
KEY = "a" * 40


@dataclass
class FakeWandb:
    mode: Mode = "works"
    bad_after: int | None = None
    """Requests for the run's history that are answered before the mode begins; None: it holds from the start."""
    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> its history, line by line, and what it was last upserted with."""
    requests: list[bytes] = field(default_factory=list)
    streamed: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            self.streamed += 1
            run = self.runs[path.split("/")[-2]]
            if (lines := body.get("files", {}).get("wandb-history.jsonl")) is not None:
                run["history"][lines["offset"] :] = [json.loads(line) for line in lines["content"]]
            return {}
        query, values = body.get("query", ""), body.get("variables", {})
        if "RunResumeStatus" in query:
            return {"data": {"model": {"id": "p", "name": "p", "entity": _entity(), "bucket": self._bucket(values)}}}
        if "UpsertBucket" in query:
            run = self.runs.setdefault(values["name"], {"history": []})
            names = ("config", "displayName", "program", "host", "project")
            run |= {key: values[key] for key in names if values[key] is not None}
            project = {"id": "p", "name": values["project"], "entity": _entity()}
            bucket = {
                "id": "b",
                "name": values["name"],
                "displayName": run["displayName"],
                "project": project,
                "historyLineCount": len(run["history"]),
            }
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in values["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "query Viewer" in query:
            viewer = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        if "mutation CreateArtifact(" in query or "mutation CreateArtifact (" in query:
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
            return {"data": {"createArtifact": {"artifact": artifact}}}
        return {"data": {"project": None} if "query ArtifactType" in query else {}}

    def _bucket(self, values: dict[str, Any]) -> dict[str, Any] | None:
        run = self.runs.get(values["name"])
        if run is None:
            return None
        last = json.dumps([json.dumps(run["history"][-1])]) if run["history"] else "[]"
        return {
            "id": "b",
            "name": values["name"],
            "displayName": run["displayName"],
            "config": run["config"],
            "summaryMetrics": "{}",
            "historyLineCount": len(run["history"]),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": last,
            "eventsTail": "[]",
            "wandbConfig": '{"t": 1}',
            "tags": [],
        }


def _entity() -> dict[str, str]:
    return {"id": "e", "name": "me"}


@contextmanager
def fake_wandb(mode: Mode = "works", *, bad_after: int | None = None) -> Iterator[FakeWandb]:
    fake = FakeWandb(mode=mode, bad_after=bad_after)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                content = gzip.decompress(content)
            fake.requests.append(content)
            is_bad = fake.bad_after is None or fake.streamed >= fake.bad_after
            if fake.mode != "works" and is_bad:
                self._misbehave(fake.mode)
                return
            is_json = self.headers.get("content-type", "").startswith("application/json")
            self._send(200, fake.answer(self.path, json.loads(content) if is_json and content else {}))

        do_PUT = do_GET = do_POST

        def _misbehave(self, mode: Mode) -> None:
            match mode:
                case "fails":
                    self._send(500, {})
                case "forbids":
                    self._send(403, {"errors": [{"message": "permission denied"}]})
                case "hangs":
                    fake.ended.wait()
                    self.close_connection = True
                case "closes":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
                    self.close_connection = True

        def _send(self, code: int, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that has gone is no error here."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield fake
    finally:
        fake.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
