"""The settings of a run: one strict TOML file, `--set section.key=value` on top, resolved before anything is sampled.

Order, later wins: defaults, the file, the method's knobs (methods/table.py), `--set`. A file whose own `method` and
knobs contradict each other is refused, so that nothing in a file is overruled in silence. With another task, engine or
trainer by `--set`, the file's lines that belong to its own one alone are left out.
The keys themselves are in settings.py, and in the rooms that read them.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_origin

from pydantic import ValidationError

from selftaught.config.choices import CHOICES
from selftaught.config.cluster import check_cluster
from selftaught.config.settings import RunConfig
from selftaught.config.text import at_line, text_of
from selftaught.grading.control_characters import control_character_in
from selftaught.machine.command_lines import command
from selftaught.machine.paths import link_to_nothing, with_home
from selftaught.machine.user_functions import parts_of, with_home_of
from selftaught.methods.table import METHODS
from selftaught.records.errors import ConfigError
from selftaught.records.sections import Section, Value, expected, kinds_of

FEW_SHOT = "few_shot.toml"
"""In the folder of a task, beside its configs: its few-shot examples."""

FILES = ("data", "dev_data", "test_data", "prompt_file")
"""The settings of [task] that may name a file or a folder."""

FUNCTIONS = ("name", "verifier_function")
"""The settings of [task] that may name a function in a file, `file.py:name`."""

LEAST_GIVEN = {"model.path": "./model", "task.name": "gsm8k", "training.learning_rate": "1e-5"}
"""The settings without a default, each with an example."""


def load_config(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> RunConfig:
    """Resolve a shipped config (by task name) or a TOML file, with `section.key=value` overrides, or settings in
    Python (as for `config_from_settings`) in their place.

    Raises ConfigError with file and line for whatever is not as documented.
    """
    text, where = _read(name_or_path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not a TOML file: {error}; see docs/config.md for the format") from error
    in_file = flatten(table, where)
    if not in_file:
        what = "sets nothing" if text.strip() else "is empty"
        raise ConfigError(
            f"{where}: the file {what}; write at least {', '.join(LEAST_GIVEN)}, as docs/config.md shows, or restore "
            "the file"
        )
    for key in in_file:
        _check_key(key, at_line(where, text, key))
    return _resolved(in_file, lambda key: at_line(where, text, key), overrides)


def config_from_settings(settings: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """As `load_config`, for settings given in Python: `section.key` values, sections as mappings, or both. A path may
    be a Path."""
    return _resolved(_flat_settings(settings, "config"), lambda key: "config", overrides or {})


def _flat_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    flat = flatten(settings, where)
    for key in flat:
        _check_key(key, where)
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in flat.items()}


def _resolved(
    in_file: Mapping[str, Any], at: Callable[[str], str], overrides: Sequence[str] | Mapping[str, Any]
) -> RunConfig:
    """The config of a file's settings and overrides; `at(key)` says where in the file a setting stands."""
    if isinstance(overrides, Mapping):
        given, source = _flat_settings(overrides, "settings"), "settings"
    else:
        given, source = parse_overrides(overrides), "--set"
    file_method = str(in_file.get("method", "star"))
    method = str(given.get("method", file_method))
    for name, origin in ((file_method, at("method")), (method, f"{source} method")):
        if name not in METHODS:
            raise ConfigError(f"{origin}: unknown method {name!r}{suggestion(name, METHODS)}")
    for key, fixed in METHODS[file_method].knobs.items():
        if key in in_file and key not in given and not _same(in_file[key], fixed):
            value = json.dumps(in_file[key], default=str)
            way_out = f"--set {key}={value}" if source == "--set" else f"settings={{{key!r}: {value}}}"
            raise ConfigError(
                f"{at(key)}: {key} = {in_file[key]!r}, but method {file_method!r} fixes it to "
                f"{fixed!r}; remove the line, use method = 'custom', or pass {way_out}"
            )
    values = overridden({**in_file, **METHODS[method].knobs}, {**given, "method": method})
    return with_homes(config_from_values(values, lambda key: source if key in given else at(key)))


def config_without_training(
    values: Mapping[str, Any], origin_of: Callable[[str], str] = lambda key: "config"
) -> RunConfig:
    """As `config_from_values`, for what trains nothing: a model and a learning rate need not be given."""
    least = {"model.path": "builtin:adder", "training.learning_rate": 1e-5}
    return config_from_values(overridden(least, values), origin_of)


def with_homes(config: RunConfig) -> RunConfig:
    """The config with every `~` in its paths replaced by the home. Raises ConfigError for an unknown user's home."""
    task, model = config.task, config.model
    changed = {key: with_home(value, f"task.{key}") for key in FILES if (value := getattr(task, key, None))}
    changed |= {key: with_home_of(value, f"task.{key}") for key in FUNCTIONS if (value := getattr(task, key, None))}
    path = with_home(model.path, "model.path")
    return config.model_copy(
        update={"task": task.model_copy(update=changed), "model": model.model_copy(update={"path": path})}
    )


def parse_overrides(overrides: Sequence[str]) -> dict[str, Value]:
    """`section.key=value` texts as flat values. Raises ConfigError for an unknown key or a text of another form."""
    return dict(_parse_override(item) for item in overrides)


def overridden(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values with others on top. If those choose another task, engine or trainer, the settings that belong to the
    first one and not to the other are left out."""

    def is_replaced(key: str) -> bool:
        section, _, name = key.rpartition(".")
        if section not in CHOICES or (chosen := given.get(f"{section}.name")) is None:
            return False
        choice = CHOICES[section]
        first = values.get(f"{section}.name", choice.default)
        return first is not None and choice.has(first, name) and not choice.has(chosen, name)

    return {**{key: value for key, value in values.items() if not is_replaced(key)}, **given}


def config_from_values(values: Mapping[str, Any], origin_of: Callable[[str], str] = lambda key: "config") -> RunConfig:
    """Validate flat `section.key` values into a RunConfig; `origin_of(key)` says where a bad one came from."""
    sections: dict[str, Any] = {key.partition(".")[0]: {} for key in LEAST_GIVEN}
    try:
        config = RunConfig.model_validate({**sections, **unflatten(values)})
    except ValidationError as error:
        raise ConfigError(_wrong_setting(error, values, origin_of)) from error
    for key, value in values.items():
        if isinstance(value, str) and (wrong := control_character_in(value)):
            raise ConfigError(f"{origin_of(key)}: {key} {wrong}")
    config.task.check_values()
    config.training.check_values()
    config.engine.check_values()
    _check_across(config)
    check_cluster(config)
    return config


def _wrong_setting(error: ValidationError, values: Mapping[str, Any], origin_of: Callable[[str], str]) -> str:
    errors = error.errors()
    first = next((e for e in errors if e["type"] != "missing"), errors[0])  # wrong values come before missing ones
    parts = [str(part) for part in first["loc"][:2]]  # the rest of it names the type that was tried, of several
    known = known_keys()
    key = parts[0] if parts[0] in known else ".".join(parts)
    if key not in known:
        return f"{origin_of(key)}: unknown setting {key!r}; see docs/config.md"
    section, _, name = key.rpartition(".")
    if first["type"] == "extra_forbidden":
        return f"{origin_of(key)}: {_of_another(section, name, values)}"
    field = known[key]
    if section in CHOICES:
        field = CHOICES[section].field(name, _section(section, values))
    example = LEAST_GIVEN.get(key) or next(iter(field.examples or ()), None)
    if first["type"] == "missing":
        how = f"write `{name} = …` under [{section}], or pass --set {key}={example}"
        return f"{origin_of(key)}: {key} must be given; {how}"
    such_as = f", such as {example}" if first["input"] == "" and example else ""
    return f"{origin_of(key)}: {key} = {first['input']!r}: expected {expected(field)}{such_as}; see docs/config.md"


def _of_another(section: str, name: str, values: Mapping[str, Any]) -> str:
    """That a setting belongs to another choice than the one made. Its value may be a key, so it is not shown."""
    choice = CHOICES[section]
    *first, last = map(repr, choice.owners(name))
    owners = f"{', '.join(first)} and {last}" if first else last
    chosen = _section(section, values).get("name", choice.default)
    return (
        f"{section}.{name} is set, but {section}.name = {chosen!r} does not use it (it belongs to {owners}); remove it "
        f"or choose another {section}.name"
    )


def _section(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of one section, of flat values."""
    return {key.removeprefix(f"{section}."): v for key, v in values.items() if key.startswith(f"{section}.")}


def flat_values(config: RunConfig) -> dict[str, Value]:
    """Every setting of this config by `section.key`, in documented order."""
    return flatten(config.model_dump(mode="json"), "config")


def differences(old: Mapping[str, Value], new: Mapping[str, Value]) -> list[str]:
    """One phrase per setting that differs."""
    return [f"{key} = {old.get(key)!r}, now {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)]


def shipped_configs() -> dict[str, str]:
    """Name -> text of the configs in the package."""
    folders = [f for f in (resources.files("selftaught") / "tasks").iterdir() if f.is_dir()]
    files = [f for folder in folders for f in folder.iterdir() if f.name.endswith(".toml") and f.name != FEW_SHOT]
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in sorted(files, key=lambda f: f.name)}


def known_keys() -> dict[str, Any]:
    """Every `section.key` -> its pydantic field, in documented order; a config has those of its own choices."""
    keys: dict[str, Any] = {}
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if name in CHOICES:
            keys |= {f"{name}.{key}": inner for key, inner in CHOICES[name].fields().items()}
        elif isinstance(section, type) and issubclass(section, Section):
            keys |= {f"{name}.{key}": inner for key, inner in section.model_fields.items()}
        else:
            keys[name] = field
    return keys


def flatten(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, Mapping):
                    raise ConfigError(f"{where}: {name}.{key} is a table; settings are section.key = value")
                flat[f"{name}.{key}"] = _as_value(inner)
        else:
            flat[name] = _as_value(value)
    return flat


def _as_value(value: Any) -> Any:
    """A list of texts as the tuple that it is inside; every other value as it is."""
    return tuple(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        inner = table.setdefault(section, {}) if section else table
        if not isinstance(inner, dict):
            raise ConfigError(f"{section} is both a setting and a section; leave one of them out")
        inner[name] = value
    return table


def suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def _check_across(config: RunConfig) -> None:
    if config.method not in METHODS:
        raise ConfigError(f"unknown method {config.method!r}{suggestion(config.method, METHODS)}")
    sampling, training = config.sampling, config.training
    if sampling.num_samples > 1 and sampling.temperature == 0.0:
        raise ConfigError(
            f"sampling.temperature is 0, so all {sampling.num_samples} samples of a problem would be the same; "
            "set sampling.num_samples=1 or raise the temperature"
        )
    again = config.rationalization
    if again.hints != "none" and not again.gives_hints and not (sampling.temperature or again.temperature):
        raise ConfigError(
            "rationalization.shows = 'nothing' and both temperatures are 0, so a failed problem would get the same "
            "completion again; raise rationalization.temperature"
        )
    for key in ("require", "require_hinted"):
        required = getattr(config.selection, key)
        if config.selection.keep == "random-matched" and not {"answer", "parseable"} & set(required):
            raise ConfigError(
                f"selection.keep = 'random-matched' draws as many samples as pass, and selection.{key} = "
                f"{list(required)} lets samples without an answer pass; add 'answer' to it"
            )
    if training.batch_size % config.compute.workers:
        raise ConfigError(
            f"compute.workers = {config.compute.workers} cannot share a training step of training.batch_size = "
            f"{training.batch_size} rows evenly; make the rows a multiple of the workers"
        )
    _check_train_workers(config)
    if training.validation_share == 1.0:
        raise ConfigError("training.validation_share = 1 leaves nothing to train on; choose less than 1")
    if (
        sampling.num_samples == 0
        and training.target == "rationale"
        and not (training.num_rehearsed or training.human_solutions)
    ):
        raise ConfigError(
            "sampling.num_samples = 0 samples nothing and neither training.num_rehearsed nor training.human_solutions "
            "adds rows, so there is nothing to train on; set one of the three"
        )


def _check_train_workers(config: RunConfig) -> None:
    number, training = config.cluster.train_workers, config.training
    if number == 1:
        return
    if not training.takes_ranks:
        raise ConfigError(
            f"cluster.train_workers = {number}, but the trainer {training.name!r} trains in one process; remove it, or "
            "take another training.name"
        )
    if config.compute.workers > 1:
        raise ConfigError(
            f"cluster.train_workers = {number} and compute.workers = {config.compute.workers} would both share a "
            "training step: compute.workers is for models of a few megabytes on a CPU; --set one of the two to 1"
        )
    if training.batch_size % number:
        raise ConfigError(
            f"cluster.train_workers = {number} cannot share a training step of training.batch_size = "
            f"{training.batch_size} rows evenly; make the rows a multiple of the train workers"
        )


def _same(a: object, b: object) -> bool:
    """Equal, and not just because True equals 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _read(name_or_path: str) -> tuple[str, str]:
    shipped = shipped_configs()
    if name_or_path in shipped:
        return shipped[name_or_path], f"{name_or_path}.toml (shipped)"
    path = Path(name_or_path)
    if not os.path.isfile(path):  # False, not an error, for a name that no file could have
        raise ConfigError(_no_config(name_or_path, shipped))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name_or_path} cannot be read ({error.strerror}); check its permissions") from error
    return text_of(content, name_or_path), name_or_path


def _no_config(name: str, shipped: Iterable[str]) -> str:
    """Why a name or path is no config: what it is instead, or that nothing has that name."""
    if os.path.isfile(os.path.join(name, "run.json")):
        return f"{name!r} is a run folder; carry the run on with `{command('run', '--resume', Path(name))}`"
    if parts_of(name):
        return f"{name!r} names a function, expected a config; write it there as task.name (see docs/tasks.md)"
    what = f"{name!r} is neither a task with a shipped config ({', '.join(shipped)}) nor a file"
    if os.path.isdir(name):
        return f"{what}, but a folder; give the TOML file in it"
    if link := link_to_nothing(Path(name)):
        return f"{what}: {link}; correct the link, or give another file"
    return f"{what}; see `selftaught tasks`"


def _check_key(key: str, origin: str) -> None:
    known = known_keys()
    if key in known:
        return
    section, _, name = key.rpartition(".")
    if section and not any(k.startswith(f"{section}.") for k in known):
        sections = sorted({k.partition(".")[0] for k in known if "." in k})
        raise ConfigError(f"{origin}: unknown section [{section}]{suggestion(section, sections)}")
    same_section = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    elsewhere = [k for k in known if name and k.endswith(f".{name}")]
    near = difflib.get_close_matches(name, same_section, n=1) or elsewhere or difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {same_section.get(near[0], near[0])!r}?" if near else "see docs/config.md"
    raise ConfigError(f"{origin}: unknown setting {key!r}; {hint}")


def _parse_override(item: str) -> tuple[str, Value]:
    key, equals, raw = item.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals:
        raise ConfigError(f"--set {item}: expected section.key=value, for example --set loop.patience=2")
    _check_key(key, f"--set {item}")
    kinds = kinds_of(known_keys()[key])
    if any(get_origin(kind) is tuple for kind in kinds) and not raw.startswith("["):
        return key, tuple(part.strip() for part in raw.split(",") if part.strip())
    if not raw and NoneType in kinds:
        return key, None  # as if the file had left it out
    if raw == "false" and Literal[False] in kinds:
        return key, False
    if str in kinds and not raw.startswith(('"', "'")):
        return key, raw
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except ValueError:  # not TOML (TOMLDecodeError is one), or a number of thousands of digits
        return key, raw
    value = _as_value(value)
    return key, value if isinstance(value, (str, int, float, bool, tuple)) else raw
