"""The content of run.json: what a run is begun with, and what of it may change when it is carried on."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from selftaught.config.loading import flat_values
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.machine.versions import git_commit, library_versions
from selftaught.models.weights import num_parameters
from selftaught.records.samples import ModelRef
from selftaught.runs.reading import FORMAT


def description(
    config: RunConfig, resolved: Resolved, base: ModelRef, data: str, from_python: Sequence[str]
) -> dict[str, Any]:
    """The content for a new run; `data` is the hash of its problems."""
    return {
        "format": FORMAT,
        "config": flat_values(config),
        "from_python": list(from_python),
        "resolved": resolved.model_dump(mode="json"),
        "model": {"path": base.path, "sha256": base.sha256, "parameters": num_parameters(base)},
        "data_sha256": data,
        "versions": versions(config),
        "git_commit": git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions(config: RunConfig) -> dict[str, str]:
    """Of Python, of the libraries that decide the numbers of a run, and of what its engine and trainer run on."""
    return {**library_versions(), **config.engine.versions(), **config.training.versions()}


def decides_tokens(config: RunConfig, resolved: Resolved) -> dict[str, Any]:
    """What decides the tokens of a chunk beside weights, prompts, seeds and sampling settings: how the machine computes
    them. How it trains is not in it."""
    of_training = {"train_workers", "training", "training_bytes", "sampling_bytes"}
    return {"resolved": resolved.model_dump(mode="json", exclude=of_training), "versions": versions(config)}


def with_changes(about: Mapping[str, Any], resolved: Resolved) -> dict[str, Any]:
    """The content of run.json for a run whose settings of memory have changed: the next resume begins with them."""
    now, before = resolved.model_dump(mode="json"), about["resolved"]["training"]
    changed = {f"training.{key}": value for key, value in now["training"].items() if value != before.get(key)}
    return {**about, "config": {**about["config"], **changed}, "resolved": now}


def with_changeable(about: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """The same for the settings that may be others at every start: workers read them there. `cluster.any_machine` stays
    true once it was: what was sampled then may be of several kinds of machines."""
    now = {key: value for key, value in flat_values(config).items() if may_change(config, key)}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in now.items()}
    values["cluster.any_machine"] = config.cluster.any_machine or about["config"].get("cluster.any_machine", False)
    return {**about, "config": {**about["config"], **values}}


def may_change(config: RunConfig, key: str) -> bool:
    """Whether a setting may differ when a run is carried on: who is told, who samples, how a server is reached."""
    section, _, name = key.partition(".")
    return (
        section == "tracking"
        or (section == "cluster" and name in config.cluster.may_change)
        or (section == "engine" and name in config.engine.may_change)
    )
