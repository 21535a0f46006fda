"""Workers finish in any order, are lost, late and replaced: the run folder is that of a run without workers."""

import tempfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripted_workers import Fate, ScriptedWorkers, ToyMaker
from selftaught.methods.method import Draw, Method
from selftaught.methods.table import METHODS
from selftaught.records.errors import Interrupted, RefusedError, SelftaughtError, WorkerDied
from selftaught.records.events import Event, Note, TokensGenerated, WorkersChanged
from selftaught.records.samples import ModelRef
from selftaught.runs.parts import Parts
from selftaught.runs.stage_file import StageFile
from selftaught.stages.workers.protocol import Finished, FinishedChunk, Refused, WorkerEvent
from selftaught.tracking.listeners import Recorder
from test_scale import MEMORY, large_task
from toy import folder_bytes, reply, run_toy, toy_config

FOLDERS = ("prompts.jsonl", "samples", "examples", "left_out", "evaluations.jsonl", "passes.jsonl")
TASK = large_task(13)
SETTINGS: dict[str, Any] = {
    "cluster__chunk_timeout": 10,
    "cluster__max_losses": 100,
    "pass_at_k__samples": 2,
    "loop__max_iterations": 1,
}

FATES = st.lists(
    st.builds(
        Fate,
        starts_s=st.sampled_from([0.5, 3.0, 40.0]),
        takes_s=st.lists(st.sampled_from([0.1, 1.0, 2.5, 11.0, 25.0]), min_size=1, max_size=4).map(tuple),
        dies_after=st.sampled_from([None, None, -1, 0, 1, 4]),
        is_told=st.booleans(),
    ),
    max_size=6,
)


def no_seed(prompt: str, seed: int) -> str:
    return reply(prompt, seed)


def configured(method: str = "star", **changes: Any) -> Any:
    return toy_config(method, **{**SETTINGS, **changes})


@cache
def alone(method: str) -> dict[str, bytes]:
    """The files of a run without workers."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run_toy(Path(folder), config=configured(method), task=TASK)
        return folder_bytes(Path(folder), *FOLDERS)


def run_with(
    folder: Path, fates: list[Fate], *, workers: int = 3, method: str = "star", **more: Any
) -> ScriptedWorkers:
    """Run the toy task with workers that have these fates."""
    config = more.pop("config", None) or configured(method)
    source = ScriptedWorkers(ToyMaker(config, TASK, reply), fates, **more.pop("source", {}))
    run_toy(folder, config=config, task=TASK, source=source, num_workers=workers, clock=source.clock, **more)
    return source


@pytest.mark.parametrize("method", ["star", "adastar"])
@given(fates=FATES, workers=st.integers(1, 4))
def test_whatever_becomes_of_workers_the_run_folder_is_that_of_a_run_without_them(
    method: str, fates: list[Fate], workers: int
) -> None:
    # What never worked ends the run when every worker has failed once; here some worker does start.
    fates = [Fate(), *fates] if all(fate.dies_after == -1 for fate in fates[: workers + 1]) else fates
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run_with(Path(folder), fates, workers=workers, method=method)
        assert folder_bytes(Path(folder), *FOLDERS) == alone(method)
