"""`selftaught doctor`: what is here, what a config or model needs of it, and whether a run is worth starting.

It calls what a run calls, so that what is checked and measured is what runs. Nothing is written but a folder that a
training asks for, which is gone afterwards. Whatever a run would refuse is a line of the part where it is found.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selftaught.commands.doctor_cluster import cluster_part
from selftaught.commands.doctor_model import AskedModel, device_part, memory_part, model_part
from selftaught.commands.doctor_text import Part, joined, plain
from selftaught.commands.doctor_worth import measured_parts
from selftaught.commands.run import default_run_dir
from selftaught.commands.stored_run import config_of_run
from selftaught.config.loading import config_without_training, load_config, overridden, parse_overrides, shipped_configs
from selftaught.config.settings import RunConfig
from selftaught.grading.verifiers import make_verifier
from selftaught.machine.cluster import ClusterConfig
from selftaught.machine.versions import library_versions
from selftaught.models.weights import resolve_model
from selftaught.records.errors import ConfigError, SelftaughtError
from selftaught.records.problems import Problem, PromptFormat, Task
from selftaught.tracking.trackers import TRACKERS


@dataclass(frozen=True, slots=True)
class Extra:
    packages: tuple[str, ...]
    """By the names that they are imported by."""
    adds: str


ANY_MODEL = "builtin:adder"

EXTRAS = {
    "4bit": Extra(("bitsandbytes", "peft"), "frozen weights in 4 bits beside adapters on a GPU (training.frozen_4bit)"),
    "cluster": Extra(("ray",), "sampling and training on a Ray cluster (cluster.address)"),
    "lora": Extra(("peft",), "training of adapters (training.lora_rank), which takes a fraction of the memory"),
    "math": Extra(("sympy",), "formulas as answers (task.verifier = 'math')"),
    **{name: Extra((source.package,), f"charts of a run in {source.label}") for name, source in TRACKERS.items()},
    "web": Extra(("starlette", "uvicorn"), "runs in a browser, live (selftaught view)"),
}
"""The optional dependencies of pyproject.toml that a user may want."""

WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Files that are no config; that a model is a folder is said of them."""

STAND_IN = Task(
    name="stand-in",
    prompt_format=PromptFormat(
        question="Q: {question}{hint}\nA:",
        hint=" (The answer is {answer}.)",
        completion=" {rationale}\n#### {answer}",
        answer_only=" #### {answer}",
    ),
    verifier=make_verifier("numeric", marker="####"),
    few_shot=(),
    train=(Problem(id="sum", question="What is 21 + 21?", answer="42", rationale="20 + 20 = 40 and 1 + 1 = 2."),),
    dev=(),
    test=(),
)
"""For a model without a task: one problem, to see how prompts are rendered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    task: str | None = None
    """For a model, the task to examine it on."""
    overrides: Sequence[str] = ()
    """`section.key=value`, over the config."""
    problems: int = 32
    """Training problems to sample; with 0 nothing is measured."""
    run_dir: Path | None = None
    """The folder that the run will have, if not the usual one."""


def examine(target: str | None, asked: Asked, *, note: Callable[[str], None] = lambda line: None) -> Iterator[Part]:
    """The parts in their order, each as soon as it is found.

    `target` is a config (a task with a shipped one, a TOML file, a run folder), a model, or None for this machine
    alone. `note` is told what takes longer. A SelftaughtError of a run's start is in the refusals of a part.
    """
    yield installed_part()
    if target is None:
        yield device_part(None, None)[0]
        cluster = _config_of(ANY_MODEL, asked).cluster if asked.overrides else ClusterConfig()
        if cluster.address is not None:
            yield cluster_part(cluster, None, asked.run_dir or Path("runs"))
        return
    refusals: list[str] = []
    config = base = None
    try:
        config = _config_of(target, asked)
        base = resolve_model(config.model.path)
    except SelftaughtError as error:
        refusals.append(str(error))
    part, resolved = device_part(config, base)
    yield part
    if config is not None and config.cluster.address is not None:
        yield cluster_part(config.cluster, resolved, asked.run_dir or _folder_of(target, config))
    if config is None or base is None or resolved is None:
        yield Part(name="model", title="Model and prompts", refusals=tuple(refusals))
        return
    has_task = asked.task is not None or _is_config(target)
    found = model_part(AskedModel(config=config, base=base, resolved=resolved, stand_in=None if has_task else STAND_IN))
    yield found.part
    if found.task is None or found.part.refusals:
        why = "not measured: correct first what is refused above"
        yield Part(name="memory", title="Memory and disk", lines=plain(why))
        return
    run_dir = asked.run_dir or _folder_of(target, config)
    memory, fitted = memory_part(config, found.task, base, found.resolved, run_dir)
    if not has_task:
        lines = plain(
            "a task's questions, and few-shot examples before them, are longer than the one question here",
            "with a task (--task NAME, or a config) there are its own prompts and a training row, its memory, the time "
            "of an iteration, and whether it is worth starting",
        )
        yield replace(memory, lines=(*memory.lines, *lines))
        return
    yield memory
    if not asked.problems:
        return
    if memory.refusals or part.refusals:
        yield Part(name="time", title="Time", lines=plain("not measured: correct first what is refused above"))
        return
    yield from measured_parts(config, found.task, base, fitted, asked.problems, note)


def installed_part() -> Part:
    """Versions, and what is not there."""
    versions = library_versions()
    lines = [", ".join(f"{name} {version}" for name, version in versions.items())]
    extras: dict[str, bool] = {}
    for name, extra in EXTRAS.items():
        missing = [package for package in extra.packages if find_spec(package) is None]
        extras[name] = not missing
        lines.append(
            f"selftaught[{name}]: "
            + (
                f"not there ({joined(missing)}); `pip install 'selftaught[{name}]'` adds {extra.adds}"
                if missing
                else f"installed ({joined(extra.packages)})"
            )
        )
    facts: dict[str, Any] = {"versions": versions, "extras": extras}
    return Part(name="installed", title="Installed", lines=plain(*lines), facts=facts)


def _folder_of(target: str, config: RunConfig) -> Path:
    """The folder of a run, or that of a new one."""
    return Path(target) if os.path.isfile(Path(target) / "run.json") else default_run_dir(config)


def _is_config(target: str) -> bool:
    if target in shipped_configs() or os.path.isfile(Path(target) / "run.json"):
        return True
    suffix = Path(target).suffix.lower()
    return suffix == ".toml" or (os.path.isfile(target) and suffix not in WEIGHTS)


def _config_of(target: str, asked: Asked) -> RunConfig:
    """The config to examine. Raises ConfigError for what is neither a config nor, with what is asked, a model."""
    if _is_config(target):
        if asked.task is not None:
            raise ConfigError(f"--task {asked.task}: {target} is a config, which names its own task; leave it out")
        if os.path.isfile(Path(target) / "run.json"):
            if asked.overrides:
                raise ConfigError(f"--set: {target} is a run, whose settings are fixed; leave it out")
            return config_of_run(Path(target))
        return load_config(target, asked.overrides)
    if asked.task in shipped_configs():
        return load_config(asked.task, [*asked.overrides, f"model.path={target}"])
    values = {"task.name": asked.task or "own", "model.path": target}
    if asked.task is None:
        values |= {"sampling.num_shots": 0}  # type: ignore[dict-item]
    return config_without_training(overridden(values, parse_overrides(asked.overrides)), lambda key: "--set")
