"""Run one rival in a process of its own, so that it shares no memory and no threads."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

MODULES = "benchmarks.rivals"


class RivalFailed(Exception):
    """A rival could not run; the text is its reason, for the record."""


def run_rival(
    module: str,
    job: Mapping[str, Any],
    folder: Path,
    *,
    threads: int,
    timeout_s: float,
    python: str = sys.executable,
) -> dict[str, Any]:
    """Run a rival and return what it measured (`child.serve`). It saves files in `folder`, which must not exist yet.

    Raises RivalFailed with the line of its output that names the error.
    """
    folder.mkdir(parents=True)
    job_path, result_path, log_path = (folder / name for name in ("job.json", "result.json", "log.txt"))
    job_path.write_text(json.dumps({**job, "threads": threads, "folder": str(folder)}), encoding="utf-8")
    command = [python, "-m", f"{MODULES}.{module}", str(job_path), str(result_path)]
    with open(log_path, "wb") as log:
        # A session of its own, so that a rival's helper processes can be ended with it.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(threads), start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    if code is None:
        raise RivalFailed(f"not finished after {timeout_s:.0f} s (--timeout)")
    if code or not result_path.exists():
        raise RivalFailed(_reason(log_path.read_text(encoding="utf-8", errors="replace"), code))
    result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
    return result


def _environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(log: str, code: int) -> str:
    """The last line that names an error, otherwise the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0]]
    return (named or lines or [f"exit code {code} without output"])[-1][:300]
