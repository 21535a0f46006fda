"""A LaTeX command with one backslash in JSON or TOML is reported; tabs, line ends and other texts are left alone."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import LEAST
from selftaught.config.loading import config_from_values, load_config
from selftaught.grading.control_characters import COMMANDS, control_character_in
from selftaught.records.errors import ConfigError
from strategies import texts

SLIPS = [
    *("frac{1}{2}", "forall x", "flat", "beta", "bar{x}", "binom{5}{2}", "boxed{5}", "begin{array}", "bmod 7", "bf x"),
    *("times 3", "theta", "text{ cm}", "textbf{x}", "tfrac{1}{2}", "tilde{x}", "triangle ABC", "therefore x", "tan(x)"),
    *(
        "rho",
        "right)",
        "rightarrow",
        "rceil",
        "neq 3",
        "nabla f",
        "notin A",
        "nleq 3",
        "nsubseteq B",
        "tau_1",
        "nu_{1}",
    ),
]


@pytest.mark.parametrize("command", SLIPS)
@pytest.mark.parametrize("around", ["{}", "Compute $3 {}$.", "if {} then"])
@pytest.mark.parametrize("load", [json.loads, lambda text: tomllib.loads(f"x = {text}")["x"]], ids=["JSON", "TOML"])
def test_a_command_with_one_backslash_is_reported_and_with_two_is_not(command: str, around: str, load: object) -> None:
    slipped = around.replace("{}", "\\" + command)
    wrong = control_character_in(load(f'"{slipped}"'))  # type: ignore[operator]
    name = command[: next((i for i, c in enumerate(command) if not c.isalpha()), len(command))]
    assert f"where \\{name} seems to be meant" in wrong
    assert control_character_in(load('"' + slipped.replace("\\", "\\\\") + '"')) == ""  # type: ignore[operator]


NAMES = [name for names in COMMANDS.values() for name in names.split("|")]


@pytest.mark.parametrize(
    "written",
    [
        *("Is $a {} 3$ so?", "Is $a{} 3$ so?", "so ${}$ is", "so ${} x$ and ${}$ is", "Let ${}$.", "${}(x)$ or $y$"),
        *(
            "is \\(a {} b\\) so?",
            "thus \\boxed{{}}",
            "costs $5, and $x {} y$ is",
            "{}",
            "{} 3",
            "3{}",
            "x {} 0",
            " {} x",
        ),
    ],
)
def test_every_command_is_reported_in_formulas_and_in_texts_that_are_nothing_else(written: str) -> None:
    for name in NAMES:
        slip = {"t": "\t", "n": "\n", "r": "\r"}[name[0]] + name[1:]
        wrong = control_character_in(written.replace("{}", slip))
        assert f"where \\{name} seems to be meant" in wrong
        assert "\n" not in wrong
        assert control_character_in(written.replace("{}", "\\" + name)) == ""


@pytest.mark.parametrize(
    "written",
    ["\\not sure", "\\nu is the frequency", "\\tau is it", "\\theta is it", "\\times", "so $x$ is \\tan x now"],
)
def test_what_only_a_command_leaves_is_reported_before_words_too(written: str) -> None:
    assert "seems to be meant" in control_character_in(json.loads(f'"{written}"'))


@pytest.mark.parametrize(
    "text",
    [
        "name\tprice\nhat\t3",
        "1.\tan apple\n2.\tto go",
        "first\nu = 3",
        "so\ne = 2.7",
        "a\ttext\tof three",
        "eq. 1\neq. 2",
        "Old\rMac\rlines",
        "Windows\r\nho ho\r\nfloor 3",
        "cost $5\tto $7",
        "not so\nnot yet\nin it\ni = 1",
        "\tan indented line",
        "halves\nequal to it\nnotable",
        "in summer\tautumn\textra\timeless",
        *("\to first\n\to second", "\top of the page", "\ni think so", "\next lines", "\n5", "5\n", "yes\n"),
        *("a\te\ti\to\tu", "x = 1\nu = 2", "1\t2\no\t3", "$5\nto $7", "from $3\nto $5 or $6", "5$\ni paid 6$ then"),
        *("Let $x$ be.\nu and $y$", "$x$\nor $y$", "$$x = 1\ni = 2$$", "$x = 1,\ny = 2$"),
        *("| a\t| b\n| i\t| o", "def f(x):\n\treturn x", "Dear Ann,\n\nnot now", "cost $5\n\ni got $6$", "A $\n$ B"),
        *("$\\begin{array}{c}\na & b\\\\\ni & j\\end{array}$", "The options:\n\tan apple\n\ta pear"),
        "é\u200b\u00a0\u2028日本🧮",
    ],
)
def test_tabs_and_line_ends_of_other_texts_are_left_alone(text: str) -> None:
    assert control_character_in(text) == ""


@given(st.text(st.characters(categories=["Cc"], exclude_characters="\t\n\r"), min_size=1, max_size=1), st.text(" ab"))
def test_every_control_character_but_tab_and_line_ends_is_reported(character: str, around: str) -> None:
    wrong = control_character_in(around + character + around)
    assert wrong
    assert "\n" not in wrong
    assert all(letter.isprintable() for letter in wrong)


@given(texts)
def test_the_message_about_any_text_is_one_line(text: str) -> None:
    assert "\n" not in control_character_in(text)


@pytest.mark.parametrize("key", ["answer_marker", "answer_pattern"])
def test_a_config_that_holds_one_is_refused_with_its_line(key: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'[task]\nname = "own"\n{key} = "\\boxed"\n')
    with pytest.raises(ConfigError, match=rf"run\.toml:3: task\.{key} holds the character \\b before 'oxed'"):
        load_config(str(path), [f"{name}={value}" for name, value in LEAST.items() if name != "task.name"])
    with pytest.raises(ConfigError, match="seems to be meant"):
        config_from_values({**LEAST, "task.name": "own", f"task.{key}": "\x0crac"})
