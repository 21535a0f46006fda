"""JSON over HTTP to one server: a limit on requests at a time, retries, and errors that name the request.

Retried: 429, 5xx, a refused or broken connection, and no complete answer in time. Everything else fails at once.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from selftaught.records.errors import EngineError, RefusedError
from selftaught.records.seeds import uniform

T = TypeVar("T")

LONGEST_WAIT_S = 60.0
"""Between two tries, whatever the server demands."""
LARGEST_BODY = 64 << 20
"""Bytes; a completion is far smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is, and how long to wait for it."""

    url: str
    """With or without /v1 at its end."""
    key: str | None = field(default=None, repr=False)
    """Sent as a bearer token; None sends none. Never written to a file, a log or an error."""
    timeout_s: float = 600.0
    """From sending a request to having its complete answer."""
    max_retries: int = 5
    backoff_s: float = 0.5
    """Before the first retry; doubled for each further one, times a factor from 0.5 to 1.5."""
    is_own: bool = False
    """Started by this process on this machine: reached without the proxies that the environment names."""

    @property
    def base_url(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")


class RequestRejected(EngineError):
    """The server answered a request with HTTP 4xx."""


class Connection:
    """The requests of one event loop to a server."""

    def __init__(self, server: Server, client: httpx2.AsyncClient) -> None:
        self._server = server
        self._client = client

    async def request(self, path: str, body: dict[str, Any] | None, *, who: str, seed: int = 0) -> Any:
        """The JSON that the server answers to a POST of `body`, or to a GET if it is None.

        `who` names the request in errors; `seed` varies its waiting times, so that requests that failed together are
        not sent again together. Raises EngineError, or RefusedError for a prompt that is too long.
        """
        server = self._server
        problem, wait = "", 0.0
        for attempt in range(server.max_retries + 1):
            if attempt:
                backoff = server.backoff_s * 2 ** min(attempt - 1, 16) * (0.5 + uniform(seed, attempt))
                await asyncio.sleep(min(max(backoff, wait), LONGEST_WAIT_S))
            wait = 0.0
            try:
                async with asyncio.timeout(server.timeout_s):
                    status, headers, content = await self._send(path, body, who)
            except (TimeoutError, httpx2.TimeoutException):
                problem = f"no complete answer within {server.timeout_s:g} s"
            except (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError) as error:
                problem = f"{type(error).__name__}: {self._excerpt(str(error))}"
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                raise EngineError(
                    f"{who}: {server.base_url}{path} cannot be reached ({type(error).__name__}: "
                    f"{self._excerpt(str(error))}); check engine.url"
                ) from error
            else:
                if status == 200:
                    return self._decoded(content, who)
                problem = f"HTTP {status}: {self._excerpt(content.decode('utf-8', 'replace'))}"
                if status != 429 and status < 500:
                    raise _rejection(who, status, problem)
                wait = _retry_after(headers.get("retry-after", ""))
        raise EngineError(
            f"{who}: {server.base_url}{path} failed {server.max_retries + 1} times, at last with {problem}; see that "
            "the server runs and what it logs, then run the same command again"
        )

    async def _send(self, path: str, body: dict[str, Any] | None, who: str) -> tuple[int, httpx2.Headers, bytes]:
        method = "GET" if body is None else "POST"
        async with self._client.stream(method, self._server.base_url + path, json=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_BODY:
                    raise EngineError(
                        f"{who}: got an answer of more than {LARGEST_BODY >> 20} MiB, expected one completion; check "
                        "that engine.url is a completions server"
                    )
            return response.status_code, response.headers, bytes(content)

    def _decoded(self, content: bytes, who: str) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            excerpt = self._excerpt(content.decode("utf-8", "replace"))
            raise EngineError(
                f"{who}: got {excerpt or 'an empty answer'}, expected one JSON object ({type(error).__name__}); check "
                "that engine.url is a completions server and that no proxy cuts its answers"
            ) from error

    def _excerpt(self, text: str) -> str:
        """A server's text for an error: short, on one line, without the key if the server repeats it."""
        if self._server.key:
            text = text.replace(self._server.key, "<key>")
        return repr(text[:200])


def as_they_finish(
    server: Server, jobs: Sequence[Callable[[Connection], Awaitable[T]]], *, concurrency: int
) -> Iterator[T]:
    """Run the jobs, at most `concurrency` at a time, and yield their results in the order in which they finish.

    The first job that fails ends the others, and its error is raised here; closing the iterator ends all. The jobs run
    in a thread of their own, so that this may be called where an event loop runs already.
    """
    if not jobs:
        return
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    waiting = iter(jobs)

    async def work(connection: Connection) -> None:
        for job in waiting:
            results.put((await job(connection), None))

    async def work_all() -> None:
        # llama.cpp gives every open connection a thread, used or not, and connections beyond its threads wait for
        # seconds; opening a new one costs almost nothing without TLS.
        keepalive = concurrency if server.url.startswith("https:") else 0
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=keepalive)
        headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
        try:
            async with (
                httpx2.AsyncClient(
                    timeout=server.timeout_s, limits=limits, headers=headers, trust_env=not server.is_own
                ) as client,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(min(concurrency, len(jobs))):
                    group.create_task(work(Connection(server, client)))
        except BaseExceptionGroup as group_error:
            results.put((None, group_error.exceptions[0]))
        except Exception as error:  # raised again where the results are read
            results.put((None, error))

    loop = asyncio.new_event_loop()
    main = loop.create_task(work_all())

    def run() -> None:
        try:
            loop.run_until_complete(main)
        except asyncio.CancelledError:
            pass
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())

    thread = threading.Thread(target=run, name="completions", daemon=True)
    thread.start()
    try:
        for _ in jobs:
            result, error = results.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]  # None only beside an error
    finally:
        loop.call_soon_threadsafe(main.cancel)
        thread.join()
        loop.close()


def _rejection(who: str, status: int, problem: str) -> EngineError | RefusedError:
    words = problem.lower()
    if status == 400 and "context" in words and any(w in words for w in ("length", "size", "window", "exceed")):
        return RefusedError(
            f"{who}: prompt and new tokens are longer than the server's context ({problem}); lower sampling.num_shots "
            "or sampling.max_new_tokens, or start the server with a longer context"
        )
    next_step = {
        401: "put the server's key into the environment variable that engine.api_key_env names",
        403: "put a key with access into the environment variable that engine.api_key_env names",
        404: "check engine.url and engine.model",
    }.get(status, "see what the server logs")
    return RequestRejected(f"{who}: got {problem}, expected HTTP 200; {next_step}")


def _retry_after(value: str) -> float:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3: a number or a date); 0 if it gives neither."""
    if value.strip().isascii() and value.strip().isdigit() and len(value) < 10:
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError, OverflowError):
        return 0.0
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
