"""A command that is printed can be pasted: the shell passes on what was meant."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.machine.command_lines import command, quoted

AWKWARD = [
    "my runs/a b",
    "a  b",
    "it's",
    'say "so"',
    "$HOME/x",
    "`id`",
    "a;b&c|d",
    "*.toml",
    "~/x",
    "#1",
    "é日本",
    "back\\slash",
    "(x)",
    "!!",
    "",
    "tail ",
    "{a,b}",
    "x=1",
]
CONTROL = ["a\nb", "tab\there", "esc\x1b[31m", "bell\a", "nbsp\u00a0x", "q'\n\\", "\udcff\udcfe", "\n1", "\u202e"]

printable = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=20)


@given(st.lists(printable, min_size=1, max_size=4))
def test_what_can_be_printed_is_split_into_the_same_words_again(arguments: list[str]) -> None:
    text = command("show", *arguments)
    assert "\n" not in text
    assert shlex.split(text) == ["selftaught", "show", *arguments]


@pytest.mark.parametrize("text", [*AWKWARD, *CONTROL])
def test_a_shell_passes_on_exactly_these_bytes(text: str) -> None:
    line = quoted(text)
    assert line.isprintable()
    program = f"{sys.executable} -c 'import os, sys; print(os.fsencode(sys.argv[1]).hex())' {line}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == text.encode("utf-8", "surrogateescape")


def test_a_path_never_reads_as_an_option() -> None:
    assert command("show", Path("-rf"), "--limit", "3") == "selftaught show ./-rf --limit 3"
    assert command("run", "--resume", Path("--help/x")) == "selftaught run --resume ./--help/x"


def test_a_plain_path_stays_as_it_is() -> None:
    assert command("run", "--resume", Path("runs/arithmetic-star")) == "selftaught run --resume runs/arithmetic-star"
