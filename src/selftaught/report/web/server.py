"""`selftaught view`: the page over a small read-only API, for browsers on this machine alone.

Only GET and HEAD are answered (no route has another method), and only for the host name that the browser was sent to: a
page of another site that has its name point here (DNS rebinding) gets nothing. Runs are looked up by name among those
given, files of the page by name among its own, so that no path comes from a request.
"""

import asyncio
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selftaught.records.errors import ConfigError, SelftaughtError, one_line
from selftaught.report.web.assets import TYPES, files
from selftaught.report.web.folders import Given, comparison_values, look_at
from selftaught.report.web.index import Index
from selftaught.report.web.overview import overview
from selftaught.report.web.parquet import write_parquet
from selftaught.report.web.selection import filters_from

HOSTS = ("127.0.0.1", "localhost", "[::1]")
MOST = 200
"""Samples of one reply."""
BATCH = 500
"""Samples of one piece of a file to save."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class NotFound(ConfigError):
    """There is nothing of that name."""


def application(folders: Sequence[Path], *, port: int) -> Starlette:
    """The server of runs and comparisons.

    Raises ConfigError for a run that is given twice, StoreError for a folder that is neither.

    `port` is the one that browsers are sent to, which their Host header must name.
    """
    runs = _Runs(folders)
    routes = [
        Route("/", _page_file("index.html")),
        *(Route(f"/{name}", _page_file(name)) for name in files()),
        *(
            Route(f"/api/{name}", _reply(make))
            for name, make in {
                "runs": runs.overviews,
                "state": runs.state,
                "grid": runs.grid,
                "facets": runs.facets,
                "problem": runs.problem,
                "samples": runs.samples,
            }.items()
        ),
        Route("/api/export.jsonl", runs.jsonl),
        Route("/api/export.parquet", runs.parquet),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        runs.close()

    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(_Guard, hosts=frozenset(f"{host}:{port}" for host in HOSTS))
    return app


class _Guard:
    """Answers only what names the host that it serves, and says what a browser may do with a reply."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # its start and its end
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            await _error(421, f"this server answers for {', '.join(sorted(self._hosts))} only")(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


class _Runs:
    """The replies about runs, each from what the folders hold when it is asked for."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._indexes: dict[Path, Index] = {}
        self._overviews: dict[Path, tuple[str, dict[str, Any]]] = {}
        for run_dir in look_at(folders).runs.values():
            self._index_of(run_dir)  # refuses what is no run folder

    def close(self) -> None:
        for index in self._indexes.values():
            index.close()

    def overviews(self, values: Mapping[str, str]) -> dict[str, Any]:
        given = look_at(self._folders)
        version = self._version(given)  # before they are read, so that what comes meanwhile is asked for again
        runs = [self._overview(name, run_dir) for name, run_dir in given.runs.items()]
        return {"version": version, "runs": runs, "comparisons": comparison_values(given)}

    def _overview(self, name: str, run_dir: Path) -> dict[str, Any]:
        """Of a comparison's many runs, one goes on, so that the others are not read again."""
        version = _state_of(_files_of(run_dir))
        kept = self._overviews.get(run_dir)
        if kept is None or kept[0] != version:
            kept = self._overviews[run_dir] = version, overview(run_dir, name=name)
        return kept[1]

    def state(self, values: Mapping[str, str]) -> dict[str, Any]:
        return {"version": self._version(look_at(self._folders))}

    def _version(self, given: Given) -> str:
        """Another text after every change of a folder."""
        files = [path for run_dir in given.runs.values() for path in _files_of(run_dir)]
        return _state_of([*given.tables, *files])

    def _index(self, values: Mapping[str, str]) -> Index:
        runs, name = look_at(self._folders).runs, values.get("run", "")
        if name not in runs:
            raise NotFound(f"there is no run {name!r} here; there are {', '.join(runs)}")
        return self._index_of(runs[name])

    def _index_of(self, run_dir: Path) -> Index:
        with self._lock:
            if run_dir not in self._indexes:
                self._indexes[run_dir] = Index(run_dir)
            return self._indexes[run_dir]

    def grid(self, values: Mapping[str, str]) -> dict[str, Any]:
        return {"grid": self._index(values).grid()}

    def facets(self, values: Mapping[str, str]) -> dict[str, Any]:
        return self._index(values).facets()

    def problem(self, values: Mapping[str, str]) -> dict[str, Any] | None:
        return self._index(values).problem(values.get("id", ""))

    def samples(self, values: Mapping[str, str]) -> dict[str, Any]:
        rest = dict(values)
        index, offset, limit = self._index(values), _whole(rest.pop("offset", "0")), _whole(rest.pop("limit", "50"))
        rest.pop("run")
        filters = filters_from(rest)
        found = index.samples(filters, offset=offset, limit=min(limit, MOST))
        return {"total": index.count(filters), "samples": found}

    def _chosen(self, request: Request) -> Iterator[dict[str, Any]]:
        values = dict(request.query_params)
        index = self._index(values)
        values.pop("run")
        return index.at(index.numbers(filters_from(values)))

    async def jsonl(self, request: Request) -> Response:
        try:
            samples = await run_in_threadpool(self._chosen, request)
        except SelftaughtError as error:
            return _refusal(error)
        return StreamingResponse(_lines(samples), media_type="application/jsonl")

    async def parquet(self, request: Request) -> Response:
        def written() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "samples.parquet"
                write_parquet(path, self._chosen(request))
                return path.read_bytes()

        try:
            content = await run_in_threadpool(written)
        except SelftaughtError as error:
            return _refusal(error)
        return Response(content, media_type="application/vnd.apache.parquet")


def _files_of(run_dir: Path) -> list[Path]:
    """Those that change while a run goes on."""
    return sorted([*run_dir.glob("*.json*"), *run_dir.glob("samples/*.jsonl"), *run_dir.glob("scores/*")])


def _state_of(files: Sequence[Path]) -> str:
    """Another text after every change of these files; only sizes and times are looked at."""
    digest = hashlib.sha256()
    for path in files:
        with suppress(FileNotFoundError):  # a temporary one, which has become another meanwhile
            found = path.stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _lines(samples: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Pieces of many lines, because each costs a change of threads."""
    while batch := list(islice(samples, BATCH)):
        text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in batch)
        yield text.encode("utf-8", "replace")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise ConfigError(f"{text!r}: expected a whole number")
    return int(text)


def _page_file(name: str) -> Callable[[Request], Any]:
    content, media_type = files()[name].encode("utf-8"), TYPES[name.rpartition(".")[2]]

    async def reply(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return reply


def _reply(make: Callable[[Mapping[str, str]], Any]) -> Callable[[Request], Any]:
    async def reply(request: Request) -> Response:
        try:
            values = await run_in_threadpool(make, dict(request.query_params))
        except SelftaughtError as error:
            return _refusal(error)
        return _json(values)

    return reply


def _refusal(error: SelftaughtError) -> Response:
    status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, ConfigError) else 500
    return _error(status, one_line(error))


def _error(status: int, text: str) -> Response:
    return _json({"error": text}, status=status)


def _json(values: Any, *, status: int = 200) -> Response:
    content = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(content.encode("utf-8", "replace"), status_code=status, media_type="application/json")


def serve(folders: Sequence[Path], *, port: int, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, on loopback alone; port 0 is any free one. `tell` gets the address.

    Raises ConfigError if the port is taken.
    """
    import socket

    import uvicorn

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)  # before anybody is told of it
    except OSError as error:
        listener.close()
        raise ConfigError(f"--port {port}: {error.strerror}; give another one, or 0 for any that is free") from error
    with listener:
        app = application(folders, port=listener.getsockname()[1])
        os.nice(10)  # a run on this machine goes first
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
        tell(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
