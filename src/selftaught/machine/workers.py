"""Workers: further processes of a run, on the same machine, that share its generation and its training.

A model of a few megabytes cannot keep several cores busy from one process: its operations are too short to be divided
among threads, and Python's lock starts them one at a time. The work alone decides which process does what, so results
do not depend on how busy the machine is.

`python -m selftaught.machine.workers FD FOLDER…` is a worker. It receives functions with their arguments through the
pipe FD, imports them (it searches the folders last) and runs one after the other; a function exchanges messages with
the run through the same pipe. Workers are not processes of `multiprocessing`, for the reasons given in
grading/verifiers/pool.py. A worker ends when its pipe is closed, so it outlives a killed run by at most one job, and it
writes no files.
"""

import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from types import MappingProxyType, TracebackType
from typing import Any

from selftaught.machine.children import environment, last_folders, module_command
from selftaught.records.errors import SelftaughtError, WorkerDied


class Worker:
    """One further process. It is started when it first gets work, and again after it has ended."""

    def __init__(self, *, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """`environment` is on top of this process's own."""
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._finalizer: Callable[[], object] = lambda: None
        self.owner: object = None
        """The object whose function runs there; None if no function runs."""

    def load(self, module: str) -> None:
        """Let the process import a module after its present function has ended; does not wait for it.

        A later call raises what the import raises.
        """
        self.begin(None, load_module, module)

    def begin(self, owner: object, function: Callable[..., None], *arguments: Any) -> None:
        """End the present function and run `function(pipe, *arguments)` there, which must return when it receives None.

        `function` must be at the top level of a module. The next call that needs its result raises what it raised; the
        process has ended then.
        """
        if self.owner is not None:
            self.end(self.owner)
        if self._process is None or self._process.poll() is not None:
            self._start()
        self.owner = owner
        self.send((function, arguments))

    def send(self, message: object) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._cause_of_death() from error

    def send_file(self, descriptor: int) -> None:
        """Send an open file to a function that waits for it in `multiprocessing.reduction.recv_handle(pipe)`."""
        assert self._pipe is not None
        assert self.pid is not None
        try:
            send_handle(self._pipe, descriptor, self.pid)
        except (OSError, RuntimeError) as error:  # RuntimeError: on some systems, if it is not acknowledged
            raise self._cause_of_death() from error

    def receive(self) -> Any:
        """The next message. Raises what the worker's function raised, and WorkerDied if the process is gone."""
        assert self._pipe is not None
        try:
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._cause_of_death() from error
        if isinstance(message, Exception):
            self.kill()
            raise message
        return message

    def has_message(self) -> bool:
        assert self._pipe is not None
        return self._pipe.poll()

    @property
    def pid(self) -> int | None:
        """The id of the process, if it was started."""
        return self._process.pid if self._process else None

    @property
    def pipe(self) -> Connection:
        """The pipe to the process, to wait for several workers at once."""
        assert self._pipe is not None
        return self._pipe

    def end(self, owner: object) -> None:
        """End the present function if it is the owner's."""
        if self.owner is owner:
            self.owner = None
            with suppress(WorkerDied):
                self.send(None)

    def strike(self) -> None:
        """End the process at once, and leave the pipe open: threads that use it notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        """In words, of a process whose pipe is closed at its end."""
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=5)
        if code is None:
            return "is ending"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def kill(self) -> None:
        """End the process at once; the next `begin` starts a new one."""
        self.owner = None
        self._finalizer()
        self._process = self._pipe = None

    def _start(self) -> None:
        self.kill()
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            module_command("selftaught.machine.workers", str(theirs.fileno()), *last_folders()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**environment(), **self._environment},
            start_new_session=True,  # so that Ctrl-C at the terminal reaches the run alone
        )
        theirs.close()
        self._finalizer = weakref.finalize(self, _end, self._process, self._pipe)  # also when the interpreter exits

    def _cause_of_death(self) -> Exception:
        """Why the process ended: the exception of its function if that was sent, or WorkerDied."""
        assert self._pipe is not None
        with suppress(EOFError, OSError):
            while self._pipe.poll(1.0):
                if isinstance(message := self._pipe.recv(), Exception):
                    self.kill()
                    return message
        how = self.how_it_ended()
        self.kill()
        return WorkerDied(
            f"a worker of the run {how}; if memory is short, set compute.workers=1 in a new run; what was saved is "
            "kept, and the same command carries on"
        )


class Workers:
    """The workers of one run; they end with the `with` block."""

    def __init__(self, number: int) -> None:
        self._workers = tuple(Worker() for _ in range(number))

    def __enter__(self) -> Sequence[Worker]:
        return self._workers

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()


def _end(process: "subprocess.Popen[bytes]", pipe: Connection) -> None:
    process.kill()
    process.wait()
    pipe.close()


def load_module(pipe: Connection, module: str) -> None:
    import_module(module)


def serve(pipe: Connection) -> None:
    """Run one function after the other until the pipe is closed or one of them fails."""
    with suppress(EOFError, OSError):
        while True:
            function, arguments = pipe.recv()
            try:
                function(pipe, *arguments)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return  # the run is gone
            except SelftaughtError as error:
                pipe.send(error)
                return
            except Exception as error:
                # Not every exception can be sent, so its text is sent.
                text = "".join(traceback.format_exception(error))
                pipe.send(RuntimeError(f"in a worker of the run:\n{text}"))
                return


if __name__ == "__main__":
    # A scheduler's SIGTERM may go to every process. It is the run's: a worker ends when its pipe does.
    signal.signal(signal.SIGTERM, lambda *_: None)
    sys.path += sys.argv[2:]
    serve(Connection(int(sys.argv[1])))
