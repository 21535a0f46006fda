"""A local HTTP server that answers as a test wants it to, well or badly."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Act = Callable[["Handler", dict[str, Any]], None]
"""Answers one completion request with the handler, given the request's body."""


class Handler(BaseHTTPRequestHandler):
    act: Act
    models: ClassVar[Any] = {"data": [{"id": "m", "owned_by": "me"}]}
    seen: ClassVar[list[dict[str, Any]]]
    headers_seen: ClassVar[list[dict[str, str]]]

    def do_GET(self) -> None:
        answer(self, 200, self.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append(body)
        self.headers_seen.append({k.lower(): v for k, v in self.headers.items()})
        with suppress(BrokenPipeError, ConnectionResetError):  # the client did not wait
            type(self).act(self, body)

    def log_message(self, *_: Any) -> None:
        pass


def answer(handler: Handler, status: int, body: Any, **headers: str) -> None:
    """Send a complete answer; text and bytes go as they are, everything else as JSON."""
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def completion(body: dict[str, Any], text: str = " ok", **choice: Any) -> dict[str, Any]:
    """The body of a good answer; every character of a text prompt counts as a token."""
    return {
        "choices": [{"text": text, "finish_reason": "stop", "index": 0, "logprobs": None, **choice}],
        "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(text)},
    }


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def misbehaving(act: Act, **attributes: Any) -> Iterator[tuple[str, type[Handler]]]:
    """The server's address, and its handler, whose `seen` has the bodies and `headers_seen` the headers that came."""
    handler = type("Acting", (Handler,), {"act": staticmethod(act), "seen": [], "headers_seen": [], **attributes})
    with _Quiet(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler
        finally:
            server.shutdown()
            thread.join()
