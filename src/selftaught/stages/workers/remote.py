"""A worker's work in a process on another machine: what the run calls there, one method at a time."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from selftaught.machine.cluster import comes_to_see
from selftaught.models.local_copy import folder_here, place_of_copies
from selftaught.models.places import folder_of, hub_id
from selftaught.records.errors import RefusedError
from selftaught.records.samples import ModelRef
from selftaught.runs.reading import read_run_json
from selftaught.stages.workers.protocol import Finished, Job, Lost, Made, Ready, Refused, Said, Told, failure

APPEARS_S = 20.0
"""A network filesystem may show a file that has changed only so much later."""


class Maker(Protocol):
    """What makes the chunks: `commands.chunk_worker.ChunkMaker`, which this room does not know."""

    def open_model(self, model: ModelRef, *, folder: Path | None = None) -> None: ...

    def platform(self) -> str: ...

    def do(self, job: Job) -> Finished: ...

    def close(self) -> None: ...


class RemoteWorker:
    """Does the jobs of one worker. `told` may be called while another method runs, in a thread of its own."""

    def __init__(self, worker: str, run_dir: str, nonce: tuple[str, str], shared: str | None, maker: str) -> None:
        """`nonce` is a file that the run has written, and its content; `shared` is the folder of the chunks that runs
        of a comparison have in common; `maker` is the module and the name of the class that makes chunks, with a colon
        between them."""
        self._worker, self._run_dir, self._nonce = worker, Path(run_dir), (Path(nonce[0]), nonce[1])
        self._options = {"shared": shared and Path(shared), "log_dir": self._run_dir / "logs" / f"worker-{worker}"}
        module, _, name = maker.partition(":")
        self._make = cast(Callable[..., Maker], getattr(import_module(module), name))
        self._maker: Maker | None = None
        self._model = ExitStack()
        self._news = threading.Condition()
        self._tokens = 0
        self._lines: list[str] = []

    def open_model(self, model: ModelRef) -> Ready | Lost | Refused:
        """Load the model, from this machine's own disk, and prove its weights."""
        try:
            self._see_the_run()
            told = {"on_tokens": self._on_tokens, "note": self._on_line}
            self._maker = self._make(self._run_dir, **self._options, **told)
            folder = self._model.enter_context(folder_here(self._where_it_is(model), place_of_copies()))
            self._maker.open_model(model, folder=folder)
            return Ready(worker=self._worker, platform=self._maker.platform())
        except Exception as error:
            return failure(self._worker, error)

    def do(self, job: Job) -> Made | Lost | Refused:
        assert self._maker is not None, "open comes first"
        try:
            return Made(worker=self._worker, result=self._maker.do(job))
        except Exception as error:
            return failure(self._worker, error)

    def told(self, every_s: float) -> Sequence[Told | Said]:
        """What is new since the last call; waits until there is something, and at least so long."""
        time.sleep(every_s)
        with self._news:
            self._news.wait_for(lambda: self._tokens or self._lines)
            tokens, lines = self._tokens, self._lines
            self._tokens, self._lines = 0, []
        said: list[Told | Said] = [Said(worker=self._worker, line=line) for line in lines]
        return [*said, *([Told(worker=self._worker, tokens=tokens)] if tokens else [])]

    def close(self) -> None:
        if self._maker is not None:
            self._maker.close()
        self._model.close()

    def _see_the_run(self) -> None:
        """Raise RefusedError unless this machine sees the very folder that the run writes."""
        path, content = self._nonce
        if not comes_to_see(path, content, within_s=APPEARS_S):
            raise RefusedError(
                f"a worker does not see {self._run_dir}, or sees another folder there; put the run folder on a "
                "filesystem that all nodes have under the same path (--run-dir)"
            )

    def _where_it_is(self, model: ModelRef) -> ModelRef:
        """The model by its path here: a shipped one, or one of the hub, may have another on each machine."""
        if model.checkpoint is not None or Path(model.path).is_dir():
            return model
        named: str = read_run_json(self._run_dir)["config"]["model.path"]
        name = hub_id(Path(model.path)) or ((named, None) if named != model.path else None)
        return replace(model, path=folder_of(model.path, name))

    def _on_tokens(self, tokens: int) -> None:
        with self._news:
            self._tokens += tokens
            self._news.notify()

    def _on_line(self, line: str) -> None:
        with self._news:
            self._lines.append(line)
            self._news.notify()
