"""Engines and servers on the stand-in for vLLM, apart from their tests: a process that opens one imports no torch."""

import os
import shlex
from pathlib import Path
from typing import Any

from selftaught.engines.server.process import ServerProcess, free_port
from selftaught.engines.server.vllm import VllmSettings, serve_command
from selftaught.records.samples import ModelRef

MODEL = ModelRef(path="m")


def settings_for(python: str | None, **fields: Any) -> VllmSettings:
    values: dict[str, Any] = {
        "python": python,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "concurrency": 4,
        "start_timeout_s": 600.0,
        "timeout_s": 600.0,
        "max_retries": 0,
    }
    return VllmSettings(**{**values, **fields})


def script(path: Path, line: str) -> str:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def group_in(log: Path) -> int:
    """The process group of the stand-in, which its log begins with."""
    return int(log.read_text(encoding="utf-8").split("group ")[1].split()[0])


def server_in(log: Path) -> int:
    """The process that answers requests."""
    return int(log.read_text(encoding="utf-8").split("server ")[1].split()[0])


def started(python: str, log: Path, fake: str, *, grace_s: float = 5.0) -> tuple[ServerProcess, int]:
    port = free_port()
    arguments = shlex.join(["--fake", fake])
    command = serve_command(python, MODEL, settings_for(python, arguments=arguments), name="n", port=port)
    return ServerProcess("vLLM", command, env=os.environ, log=log, grace_s=grace_s), port
