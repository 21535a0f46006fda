"""The settings of a run as others may read them: without paths, addresses and names of this machine.

From them comes a config file that repeats the run, and the command for it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftaught.config.loading import FILES, FUNCTIONS
from selftaught.machine.command_lines import command
from selftaught.methods.table import METHODS
from selftaught.tasks.outside import OBJECT

PRIVATE = ("engine.url", "engine.model", "engine.api_key_env", "engine.vllm_python", "engine.vllm_args")
"""How this machine reaches its server."""


def public_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings as in run.json, without those of this machine; of a path only its last name."""
    paths = {"model.path", *(f"task.{key}" for key in (*FILES, *FUNCTIONS))}
    return {
        key: public_name(value) if key in paths and isinstance(value, str) else value
        for key, value in config.items()
        if key not in PRIVATE
    }


def public_name(path: str) -> str:
    """The last name of an absolute path, also of `…/file.py:function`; a hub id or any other name as it is."""
    return Path(path).name if os.path.isabs(path) else path


def config_text(config: Mapping[str, Any]) -> str:
    """A config file of the public settings. One that contradicts its method is refused without the overrides of
    `repeating_command`."""
    lines = [f"{key} = {_as_toml(value)}" for key, value in public_values(config).items() if value is not None]
    return "\n".join([*lines, ""])


def repeating_command(config: Mapping[str, Any], *, file: str, run_dir: str) -> str | None:
    """The command that repeats a run with the file that `config_text` wrote; None for a task given from Python."""
    if str(config["task.name"]).startswith(OBJECT):
        return None
    overrides = {**_against_the_method(config), **({"engine.url": "URL"} if config.get("engine.url") else {})}
    texts = (f"{key}={'' if value is None else _as_override(value)}" for key, value in overrides.items())
    return command("run", file, "--run-dir", Path(run_dir), *(part for text in texts for part in ("--set", text)))


def _against_the_method(config: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that the method fixes and that the command line gave otherwise."""
    method = METHODS.get(str(config["method"]))
    knobs = {} if method is None else method.knobs
    return {key: config[key] for key, fixed in knobs.items() if key in config and _plain(fixed) != _plain(config[key])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_toml(value: Any) -> str:
    # Texts, numbers, truth values and lists of texts are written alike, but DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _as_override(value: Any) -> str:
    return value if isinstance(value, str) else _as_toml(_plain(value))
