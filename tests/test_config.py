"""A run's settings come from one strict file and `--set`; an error is one line that says where it is."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import LEAST, TESTS, config
from selftaught.commands.check_task import check_task
from selftaught.config.choices import CHOICES
from selftaught.config.loading import (
    config_from_values,
    differences,
    flat_values,
    known_keys,
    load_config,
    overridden,
    shipped_configs,
)
from selftaught.config.settings import RunConfig
from selftaught.methods.table import METHODS
from selftaught.records.errors import ConfigError, SelftaughtError
from selftaught.records.sections import expected
from selftaught.tasks import TASKS
from strategies import settings_values


def written(folder: Path, text: str | bytes) -> str:
    """The path of a config file with this content."""
    path = folder / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    """The message with which a file is refused, with the folder cut off."""
    with pytest.raises(ConfigError) as caught:
        load_config(written(folder, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


EVERY_KEY_OF_TASK = "task.name=tasks.py:load"
"""An override: a task of one's own has all settings of [task]."""


def refusal_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config("arithmetic", overrides)
    return str(caught.value)


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A file that leaves out what must be given, which overrides add."""
    return load_config(path, [*(f"{key}={value}" for key, value in LEAST.items()), *overrides])


# What is shipped, and the order in which settings win.


def test_the_shipped_arithmetic_config_loads() -> None:
    loaded = load_config("arithmetic")
    assert (loaded.method, loaded.task.name, loaded.model.path) == ("star", "arithmetic", "builtin:adder")


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_and_is_for_a_shipped_task(name: str) -> None:
    assert load_config(name).task.name in TASKS


@pytest.mark.parametrize("method", METHODS)
def test_the_shipped_config_runs_every_method(method: str) -> None:
    values = flat_values(load_config("arithmetic", [f"method={method}"]))
    assert values["method"] == method
    assert {key: values[key] for key in METHODS[method].knobs} == dict(METHODS[method].knobs)


def test_a_file_of_ones_own_is_read_like_a_shipped_one(tmp_path: Path) -> None:
    (text,) = [text for name, text in shipped_configs().items() if name == "arithmetic"]
    assert load_config(written(tmp_path, text)) == load_config("arithmetic")


def test_settings_left_out_keep_their_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, "seed = 0\n")) == config_from_values({**METHODS["star"].knobs, **LEAST})


def test_the_file_wins_over_the_defaults(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, "seed = 5\n[loop]\npatience = 9\n"))
    assert (loaded.seed, loaded.loop.patience) == (5, 9)


def test_the_method_fixes_its_knobs(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, 'method = "rest-em"\n'))
    assert (loaded.sampling.num_samples, loaded.sampling.top_k, loaded.selection.max_per_problem) == (32, 40, 10)


def test_set_wins_over_the_file(tmp_path: Path) -> None:
    assert load(written(tmp_path, "[loop]\npatience = 9\n"), ["loop.patience=2"]).loop.patience == 2


def test_set_wins_over_the_method(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, 'method = "rest-em"\n'), ["sampling.num_samples=4", "sampling.temperature=1.5"])
    assert (loaded.sampling.num_samples, loaded.sampling.temperature) == (4, 1.5)
    assert loaded.sampling.top_k == 40


def test_a_method_given_by_set_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'method = "rft"\n[sampling]\nnum_samples = 100\n[loop]\nmax_iterations = 1\n')
    loaded = load(path, ["method=star-accumulate"])
    assert (loaded.method, loaded.sampling.num_samples, loaded.training.window) == ("star-accumulate", 1, "all")
    assert loaded.loop.max_iterations == 1  # star leaves it to the file


def test_set_wins_over_a_method_given_by_set() -> None:
    loaded = load_config("arithmetic", ["sampling.num_samples=3", "method=rft"])
    assert (loaded.sampling.num_samples, loaded.sampling.temperature) == (3, 0.7)


def test_of_two_sets_of_one_key_the_last_wins() -> None:
    assert load_config("arithmetic", ["seed=1", "seed=2"]).seed == 2


def test_method_custom_leaves_every_knob_to_the_file(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, 'method = "custom"\n[sampling]\nnum_samples = 4\ntemperature = 0.9\n'))
    assert (loaded.sampling.num_samples, loaded.sampling.temperature) == (4, 0.9)


def test_a_knob_that_repeats_what_the_method_says_is_accepted(tmp_path: Path) -> None:
    assert load(written(tmp_path, "[sampling]\nnum_samples = 1\n")).method == "star"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("training.learning_rate=1", "training.learning_rate", 1.0),
        ("task.variant=restated", "task.variant", "restated"),
        ('task.variant="restated"', "task.variant", "restated"),
        ("task.variant=", "task.variant", None),
        ("task.rationale_key=false", "task.rationale_key", False),
        ('task.rationale_key="false"', "task.rationale_key", "false"),
        ("task.rationale_key=solution", "task.rationale_key", "solution"),
        ("sampling.top_k=", "sampling.top_k", None),
        ("sampling.top_k=40", "sampling.top_k", 40),
        ("task.dev_problems=all", "task.dev_problems", "all"),
        ("task.dev_problems=7", "task.dev_problems", 7),
        ('compute.threads="auto"', "compute.threads", "auto"),
        ("model.path=a=b", "model.path", "a=b"),
        ("model.path=../my model", "model.path", "../my model"),
        (" seed = 4 ", "seed", 4),
        ("training.human_solutions=true", "training.human_solutions", True),
    ],
)
def test_set_takes_a_toml_value_or_plain_text(override: str, key: str, value: Any) -> None:
    assert flat_values(load_config("arithmetic", [EVERY_KEY_OF_TASK, override]))[key] == value


# Refusals of a file: file, line, what, and what was meant.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[sampling]\n\nsample = 3\n",
            "run.toml:3: unknown setting 'sampling.sample'; did you mean 'sampling.num_samples'?",
        ),
        ("sede = 3\n", "run.toml:1: unknown setting 'sede'; did you mean 'seed'?"),
        (
            "[loop]\npatience = 1\nlearning_rate = 1\n",
            "run.toml:3: unknown setting 'loop.learning_rate'; did you mean ",
        ),
        ("[loop]\nxyzzy = 1\n", "run.toml:2: unknown setting 'loop.xyzzy'; see docs/config.md"),
        ("[samplin]\nnum_samples = 1\n", "run.toml:2: unknown section [samplin]; did you mean 'sampling'?"),
        ("[xyzzy]\na = 1\n", "run.toml:2: unknown section [xyzzy]; known: cluster, compute, engine, loop, model, "),
        ('[loop]\npatience = "three"\n', "run.toml:2: loop.patience = 'three': expected a whole number ≥ 1"),
        ("[loop]\npatience = 3.0\n", "run.toml:2: loop.patience = 3.0: expected a whole number ≥ 1"),
        ("[loop]\npatience = true\n", "run.toml:2: loop.patience = True: expected a whole number ≥ 1"),
        (
            "[model]\n# why\ntrust_remote_code = 1\n",
            "run.toml:3: model.trust_remote_code = 1: expected true or false",
        ),
        (
            "[model]\npath = 1979-05-27\n",
            "run.toml:2: model.path = datetime.date(1979, 5, 27): expected text",
        ),
        ("[loop]\npatience = [3]\n", "run.toml:2: loop.patience = [3]: expected a whole number ≥ 1"),
        ("[task]\nid_key = true\n", "run.toml:2: task.id_key = True: expected text or false; see docs/config.md"),
        ("[task]\nid_key = 0\n", "run.toml:2: task.id_key = 0: expected text or false; see docs/config.md"),
        ("[loop]\npatience = 0\n", "run.toml:2: loop.patience = 0: expected a whole number ≥ 1"),
        ("[training]\nlearning_rate = 0.0\n", "run.toml:2: training.learning_rate = 0.0: expected a number > 0.0, ≤ 1"),
        ("[training]\nlearning_rate = nan\n", "run.toml:2: training.learning_rate = nan: expected a number > 0.0, ≤ 1"),
        ("[training]\nadam_beta2 = 1.0\n", "run.toml:2: training.adam_beta2 = 1.0: expected a number ≥ 0.5, < 1.0"),
        (
            "[task]\nchoose = 'hardest'\n",
            'run.toml:2: task.choose = \'hardest\': expected "random" or "random-per-class" or "unsolved-first"; ',
        ),
        ("seed = -1\n", "run.toml:1: seed = -1: expected a whole number ≥ 0"),
        ('method = "starr"\n', "run.toml:1: unknown method 'starr'; did you mean 'star'?"),
        ('method = "xyzzy"\n', "run.toml:1: unknown method 'xyzzy'; known: adastar, custom, direct, "),
        ("method = 3\n", "run.toml:1: unknown method '3'; known: "),
        ("seed = \n", "run.toml: not a TOML file: Invalid value (at line 1, column 8); see docs/config.md"),
        ("seed = 1\nseed = 2\n", "run.toml: not a TOML file: Cannot overwrite a value (at line 2, column 9)"),
        (b"[model]\npath = '\xff'\n", "run.toml:2: not UTF-8 text (byte 16); save the file as UTF-8"),
        ("[loop.deeper]\npatience = 1\n", "run.toml: loop.deeper is a table; settings are section.key = value"),
        ("loop = 3\n", "run.toml:1: unknown setting 'loop'"),
        ("[[loop]]\npatience = 3\n", "run.toml: unknown setting 'loop'"),
    ],
)
def test_a_file_that_is_not_as_documented_is_refused(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_the_line_of_a_key_is_that_in_its_own_section(tmp_path: Path) -> None:
    """Two sections have a `temperature`."""
    text = (
        '# temperature = 9.0\nmethod = "custom"\n[rationalization]\ntemperature = 0.5\n[sampling]\ntemperature = 9.0\n'
    )
    assert refusal(tmp_path, text).startswith("run.toml:6: sampling.temperature = 9.0: expected a number ≥ 0.0, ≤ 5.0")


def test_a_file_that_contradicts_its_own_method_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'method = "star-continue"\n[training]\nstart_from = "base"\n')
    assert message.startswith(
        "run.toml:3: training.start_from = 'base', but method 'star-continue' fixes it to 'previous'; "
    )


def test_a_file_without_a_method_must_not_contradict_star(tmp_path: Path) -> None:
    assert "but method 'star' fixes it to 1" in refusal(tmp_path, "[sampling]\nnum_samples = 8\n")


@pytest.mark.parametrize("text", ["[selection]\nmax_per_problem = 3\n", "[training]\nhuman_solutions = true\n"])
def test_the_way_out_of_a_contradiction_works(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    way_out = re.search(r"pass --set (\S+)$", str(caught.value))
    assert way_out
    load(path, [way_out[1]])


def test_a_knob_of_the_wrong_type_is_refused_though_the_method_fixes_it(tmp_path: Path) -> None:
    assert "sampling.num_samples = True" in refusal(tmp_path, "[sampling]\nnum_samples = true\n")


def test_a_bad_dotted_key_is_named_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "loop.patience = 0\n").startswith("run.toml:1: ")


def test_what_must_be_given_is_asked_for_by_name(tmp_path: Path) -> None:
    text = '[task]\nname = "own"\n[training]\nlearning_rate = 1e-5\n'
    assert refusal(tmp_path, text) == (
        "run.toml: model.path must be given; write `path = …` under [model], or pass --set model.path=./model"
    )
    assert refusal(tmp_path, text, "model.path=x", "loop.patience=0").startswith("--set: loop.patience = 0: ")
    for key in LEAST:
        others = [f"{other}={value}" for other, value in LEAST.items() if other != key]
        assert f"{key} must be given" in refusal(tmp_path, "seed = 0\n", *others)


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'arithmetics' is neither .* \(arithmetic.*\) nor a file"):
        load_config("arithmetics")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nor a file"):
        load_config(str(tmp_path))


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_any_file_gives_a_config_or_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        message = ""
        try:
            load_config(written(Path(folder), content))
        except SelftaughtError as error:
            message = str(error)
        assert "\n" not in message


# How a file is encoded.

PLAIN = "# a config – mit Umlauten\nseed = 5\n[loop]\npatience = 9\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        ("\ufeff" + PLAIN).encode("utf-8-sig"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
        PLAIN.replace("\n", "\r").encode("utf-8-sig"),
        PLAIN.rstrip("\n").encode("utf-8-sig"),
    ],
)
def test_a_byte_order_mark_and_other_line_ends_change_nothing(content: bytes, tmp_path: Path) -> None:
    loaded = load(written(tmp_path, content))
    assert (loaded.seed, loaded.loop.patience) == (5, 9)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b"", b" \n\n", b"# seed = 3\n", b"[task]\n"])
def test_a_file_that_sets_nothing_is_refused(content: bytes, tmp_path: Path) -> None:
    message = refusal(tmp_path, content)
    what = "sets nothing" if b"[" in content or b"#" in content else "is empty"
    least = "model.path, task.name, training.learning_rate"
    assert message.startswith(f"run.toml: the file {what}; write at least {least}, ")
    assert refusal(tmp_path, content, "seed=3") == message


def test_a_git_lfs_pointer_is_no_toml_file(tmp_path: Path) -> None:
    for end in ("\n", "\r\n"):
        text = f"version https://git-lfs.github.com/spec/v1{end}oid sha256:{'0' * 64}{end}size 131{end}"
        assert refusal(tmp_path, text).startswith(
            "run.toml is a Git LFS pointer, not the file itself; run `git lfs pull`"
        )


def test_a_name_that_is_no_file_says_what_it_is_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "link.toml").symlink_to("gone.toml")
    (tmp_path / "gone").symlink_to("nowhere")
    expected = {
        "folder": "nor a file, but a folder; give the TOML file in it",
        "run": "'run' is a run folder; carry the run on with `selftaught run --resume run`",
        "link.toml": "link.toml is a symbolic link to gone.toml, which is not there; correct the link",
        "gone/x.toml": "gone is a symbolic link to nowhere, which is not there; correct the link",
        "none.toml": "nor a file; see `selftaught tasks`",
    }
    for name, message in expected.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_config(name)
    for name in ("folder", "link.toml"):
        with pytest.raises(ConfigError, match=re.escape(expected[name])):
            check_task(name)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_mistake_after_a_byte_order_mark_has_its_line(line_end: str, tmp_path: Path) -> None:
    text = f"\ufeffseed = 5{line_end}[loop]{line_end}patienc = 9{line_end}"
    assert refusal(tmp_path, text).startswith("run.toml:3: unknown setting 'loop.patienc'")
    assert refusal(tmp_path, f"\ufeffsede = 5{line_end}").startswith("run.toml:1: unknown setting 'sede'")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_file_in_another_unicode_form_is_called_so(encoding: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, PLAIN.encode(encoding))
    assert message == "run.toml: UTF-16 or UTF-32 text, or no text, expected UTF-8; save the file as UTF-8"


def test_a_file_in_latin_1_is_refused_with_the_line(tmp_path: Path) -> None:
    content = "seed = 5\n# für\n".encode("latin-1")
    assert refusal(tmp_path, content) == "run.toml:2: not UTF-8 text (byte 12); save the file as UTF-8"


def test_the_case_that_was_reported_is_read() -> None:
    reported = TESTS.parent.parent / "shared" / "cases" / "F32_config_bom.toml"
    if not reported.exists():
        pytest.skip("the folder with reported cases is not here")
    assert load(str(reported)).task.name == "arithmetic"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = written(tmp_path, PLAIN)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ConfigError, match=r"run\.toml cannot be read \(Permission denied\)"):
        load_config(path)


# Refusals of --set.


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loop.patience", "--set loop.patience: expected section.key=value, for example "),
        ("", "--set : expected section.key=value"),
        ("loop.patients=3", "--set loop.patients=3: unknown setting 'loop.patients'; did you mean 'loop.patience'?"),
        ("lop.patience=3", "--set lop.patience=3: unknown section [lop]; did you mean 'loop'?"),
        ("compute.threads=0", '--set: compute.threads = 0: expected a whole number ≥ 1 or "auto"; see docs/config.md'),
        ("compute.threads=many", "--set: compute.threads = 'many': expected a whole number ≥ 1 or \"auto\""),
        ("task.id_key=", "--set: task.id_key = '': expected text or false; see docs/config.md"),
        ("task.question_key=", "--set: task.question_key = '': expected text; see docs/config.md"),
        ("task.dev_rows=0", "--set: task.dev_rows = 0: expected a whole number ≥ 1; see docs/config.md"),
        ("patience=3", "--set patience=3: unknown setting 'patience'; did you mean 'loop.patience'?"),
        ("loop=3", "--set loop=3: unknown setting 'loop'"),
        ("=3", "--set =3: unknown setting ''"),
        ("loop.patience=three", "--set: loop.patience = 'three': expected a whole number ≥ 1"),
        ("loop.patience=0", "--set: loop.patience = 0: expected a whole number ≥ 1"),
        ("loop.patience=[1]", "--set: loop.patience = '[1]': expected a whole number ≥ 1"),
        ("loop.patience=", "--set: loop.patience = '': expected a whole number ≥ 1"),
        ("method=starr", "--set method: unknown method 'starr'; did you mean 'star'?"),
    ],
)
def test_an_override_that_is_not_as_documented_is_refused(override: str, expected: str) -> None:
    assert refusal_of(EVERY_KEY_OF_TASK, override).startswith(expected)


# Settings that contradict each other.


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sampling.num_samples=4"], "sampling.temperature is 0, so all 4 samples of a problem would be the same"),
        (["training.noise_scale=true", "training.batch_size=1"], "training.batch_size = 1 cannot be split"),
        (["training.validation_share=1.0"], "training.validation_share = 1 leaves nothing to train on"),
        (["sampling.num_samples=0", "training.num_rehearsed=0"], "sampling.num_samples = 0 samples nothing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], expected: str) -> None:
    assert expected in refusal_of(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampling.num_samples=4", "sampling.temperature=0.7"],
        ["sampling.num_samples=1", "sampling.temperature=0.0"],
        ["training.noise_scale=true", "training.batch_size=2"],
        ["sampling.num_samples=0", "training.num_rehearsed=1"],
        ["sampling.num_samples=0", "training.num_rehearsed=0", "training.human_solutions=true"],
        ["sampling.num_samples=0", "training.num_rehearsed=0", "training.target=answer"],
        ["engine.slots=8", "compute.chunk_completions=3"],
        ["compute.chunk_completions=31"],
    ],
)
def test_settings_that_go_together_are_accepted(overrides: list[str]) -> None:
    values = flat_values(load_config("arithmetic", overrides))
    assert {item.partition("=")[0] for item in overrides} <= set(values)


# Flat values, as they stand in run.json.


@given(settings_values())
def test_flat_values_survive_the_way_through_run_json(values: dict[str, Any]) -> None:
    resolved = config_from_values(values)
    flat = flat_values(resolved)
    assert config_from_values(json.loads(json.dumps(flat))) == resolved
    assert flat == values


@pytest.mark.parametrize("task", [*TASKS, "tasks.py:load"])
def test_flat_values_of_every_task_are_read_again_and_in_documented_order(task: str) -> None:
    flat = flat_values(config(task={"name": task}))
    assert flat_values(config_from_values(json.loads(json.dumps(flat)))) == flat
    assert list(flat) == [key for key in known_keys() if key in flat]


def test_a_value_from_a_changed_run_json_is_refused_with_its_origin() -> None:
    with pytest.raises(ConfigError, match=r"^runs/a/run.json: loop.patience = '3': expected a whole number ≥ 1"):
        config_from_values({"loop.patience": "3"}, lambda key: "runs/a/run.json")


@pytest.mark.parametrize("key", ["loop.xyzzy", "xyzzy.patience", "xyzzy"])
def test_a_key_from_another_version_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="xyzzy"):
        config_from_values({key: 1})


def test_differences_name_each_setting_that_changed() -> None:
    old, new = flat_values(config()), flat_values(config(loop={"patience": 9}, compute={"threads": 2}))
    assert differences(old, new) == ["loop.patience = 3, now 9", "compute.threads = 'auto', now 2"]
    assert differences(old, old) == []
    assert differences({"a": 1}, {"b": 2}) == ["a = 1, now None", "b = None, now 2"]


# The engine.

SERVED = ("engine.name=openai", "engine.url=http://localhost:8000")


@pytest.mark.parametrize(
    ("key", "value", "owner"),
    [
        ("url", "http://localhost:8000", "'openai'"),
        ("model", "m", "'openai'"),
        ("api_key_env", "MY_API_KEY", "'openai'"),
        ("concurrency", "2", "'openai' and 'vllm'"),
        ("timeout_s", "5.0", "'openai' and 'vllm'"),
        ("max_retries", "1", "'openai' and 'vllm'"),
        ("vllm_python", "python", "'vllm'"),
        ("vllm_args", "--x", "'vllm'"),
        ("start_timeout_s", "5.0", "'vllm'"),
    ],
)
def test_a_setting_of_another_engine_is_refused_and_says_whose_it_is(key: str, value: str, owner: str) -> None:
    message = refusal_of(f"engine.{key}={value}")
    assert f"engine.{key} is set" in message
    assert f"it belongs to {owner}" in message
    if "openai" not in owner:
        assert f"engine.{key} is set" in refusal_of(*SERVED, f"engine.{key}={value}")


@pytest.mark.parametrize("key", ["slots", "cache_mib", "compiled"])
def test_slots_and_what_belongs_to_them_are_settings_of_the_local_engine(key: str) -> None:
    message = refusal_of(*SERVED, f"engine.{key}=4")
    assert f"engine.{key} is set, but engine.name = 'openai' does not use it (it belongs to 'local')" in message
    assert refusal_of(f"compute.{key}=4").endswith(f"unknown setting 'compute.{key}'; did you mean 'engine.{key}'?")


def test_a_config_has_the_settings_of_its_own_engine_and_trainer_alone() -> None:
    def keys(section: str, *overrides: str) -> set[str]:
        values = flat_values(load_config("arithmetic", overrides))
        return {key.removeprefix(f"{section}.") for key in values if key.startswith(f"{section}.")}

    assert keys("engine") == {"name", "slots", "cache_mib", "compiled"}
    of_a_server = {"name", "concurrency", "timeout_s", "max_retries"}
    assert keys("engine", *SERVED) == of_a_server | {"url", "model", "api_key_env"}
    assert keys("engine", "engine.name=vllm") == of_a_server | {"vllm_python", "vllm_args", "start_timeout_s"}
    assert keys("training") - keys("training", "training.name=none") >= {"learning_rate", "lora_rank"}
    of_every_task = {"name", "choose", "problems_per_iteration", "dev_problems", "test_problems"}
    assert keys("task") == of_every_task | {"variant", "data_seed"}
    assert keys("task", "task.name=gsm8k") & {"variant", "test_rows", "data"} == {"data"}
    assert keys("task", "task.name=tasks.py:load") == set(CHOICES["task"].fields())


@pytest.mark.parametrize("section", CHOICES)
def test_entries_that_share_a_setting_agree_on_what_it_may_be(section: str) -> None:
    for key, field in CHOICES[section].fields().items():
        for name in CHOICES[section].owners(key) if key != "name" else ():
            own = CHOICES[section].table()[name].model_fields[key]
            assert (expected(own), own.default) == (expected(field), field.default), f"{section}.{key} of {name}"


@pytest.mark.parametrize("section", CHOICES)
def test_the_name_of_an_entry_is_its_own_default(section: str) -> None:
    table = CHOICES[section].table()
    assert [entry.model_fields["name"].default for entry in table.values()] == list(table)


@pytest.mark.parametrize("section", [name for name, choice in CHOICES.items() if choice.other is None])
def test_an_unknown_name_is_refused_with_all_that_are_known(section: str) -> None:
    table = CHOICES[section].table()
    known = " or ".join(json.dumps(name) for name in table)
    assert refusal_of(f"{section}.name=xyzzy").startswith(f"--set: {section}.name = 'xyzzy': expected {known}")


def test_a_setting_of_another_task_is_refused_with_file_and_line_and_its_owners(tmp_path: Path) -> None:
    path = written(tmp_path, '[task]\nname = "commonsenseqa"\ntest_rows = 3\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path, [f"{key}={value}" for key, value in LEAST.items() if key != "task.name"])
    assert str(caught.value) == (
        f"{path}:3: task.test_rows is set, but task.name = 'commonsenseqa' does not use it (it belongs to "
        "'reasoning-gym' and 'own'); remove it or choose another task.name"
    )


def test_a_run_json_that_lists_the_keys_of_every_task_is_read_if_the_others_have_their_defaults() -> None:
    fields = CHOICES["task"].fields()
    listed = {f"task.{key}": field.default for key, field in fields.items() if key != "name"}
    assert config_from_values({**LEAST, **listed}) == config_from_values(LEAST)
    with pytest.raises(ConfigError, match=r"task\.id_key is set, but task\.name = 'arithmetic' does not use it"):
        config_from_values({**LEAST, **listed, "task.id_key": False})


def test_another_task_by_set_replaces_the_lines_of_the_file_that_belong_to_its_task(tmp_path: Path) -> None:
    path = written(tmp_path, '[task]\nname = "own"\ndata = "rows.jsonl"\nquestion_key = "q"\ndev_rows = 3\n')
    of_gsm8k = flat_values(load(path, ["task.name=gsm8k"]))
    assert (of_gsm8k["task.data"], of_gsm8k["task.dev_rows"]) == ("rows.jsonl", 3)
    assert "task.question_key" not in of_gsm8k
    assert flat_values(load(path, ["task.name=tasks.py:load"]))["task.question_key"] == "q"
    path = written(tmp_path, '[task]\nname = "tasks.py:load"\nquestion_key = "q"\n')
    assert "task.question_key" not in flat_values(load(path, ["task.name=gsm8k"]))
    with pytest.raises(ConfigError, match=r"run\.toml:2: task\.question_key is set, but task\.name = 'gsm8k'"):
        load(written(tmp_path, '[task]\nquestion_key = "q"\n'), ["task.name=gsm8k"])


def test_another_engine_by_set_replaces_the_lines_of_the_file_that_belong_to_its_engine(tmp_path: Path) -> None:
    path = written(tmp_path, '[engine]\nname = "openai"\nurl = "http://h"\nmax_retries = 2\n')
    values = flat_values(load(path, ["engine.name=vllm"]))
    assert values["engine.max_retries"] == 2  # it belongs to both
    assert "engine.url" not in values
    with pytest.raises(ConfigError, match=r"--set: engine\.url is set"):
        load(path, ["engine.name=vllm", "engine.url=http://h"])
    assert flat_values(load(path, ["engine.name=openai"]))["engine.url"] == "http://h"


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://host", "http://", "http://h:0", "http://h:99999", "http://h:x", "http://hö", "//h"],
)
def test_an_engine_url_that_is_no_address_is_refused(url: str) -> None:
    assert "http://127.0.0.1:8000" in refusal_of("engine.name=openai", f"engine.url={url}")


@pytest.mark.parametrize("url", ["http://me:s3cret@h", "http://s3cret@h", "http://h/?key=s3cret", "http://h/#s3cret"])
def test_an_engine_url_with_a_key_in_it_is_refused_without_showing_it(url: str) -> None:
    message = refusal_of("engine.name=openai", f"engine.url={url}")
    assert "engine.api_key_env" in message
    assert "s3cret" not in message


@pytest.mark.parametrize("key", ["sk-s3cret", "s3cret", "9A", "A B", "Aé"])
def test_a_key_in_place_of_its_variable_is_refused_without_showing_it(key: str) -> None:
    message = refusal_of(*SERVED, f"engine.api_key_env={key}")
    assert "name of an environment variable" in message
    assert key not in message.replace("MY_API_KEY", "").replace("A-Z", "")


def test_complete_values_take_another_engine_and_trainer_on_top() -> None:
    values = flat_values(load_config("arithmetic"))
    other = overridden(values, {"engine.name": "openai", "engine.url": "http://h", "training.name": "none"})
    assert not {"engine.slots", "training.learning_rate"} & set(other)
    assert config_from_values(other).training.batch_size == values["training.batch_size"]
    assert overridden(values, {"engine.name": "local"}) == values
    assert overridden(values, {"engine.slots": 3})["engine.slots"] == 3


def test_a_setting_that_the_chosen_engine_needs_is_asked_for_with_an_example() -> None:
    message = refusal_of("engine.name=openai")
    assert message.endswith("engine.url must be given; write `url = …` under [engine], or pass --set "
                            "engine.url=http://127.0.0.1:8000")  # fmt: skip


def test_an_absent_setting_of_another_engine_is_no_setting() -> None:
    values = {**flat_values(load_config("arithmetic")), "engine.url": None}
    assert "engine.url" not in flat_values(config_from_values(values))


def test_vllm_arguments_with_an_open_quote_are_refused() -> None:
    assert "engine.vllm_args" in refusal_of("engine.name=vllm", "engine.vllm_args=--x 'y")
