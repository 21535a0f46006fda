"""Commands that a person is told to type: quoted so that a shell hands over exactly what was meant."""

import os
import shlex
from pathlib import Path


def command(*arguments: str | Path) -> str:
    """`selftaught` with these arguments, to paste into a shell; a path is never taken for an option there."""
    return " ".join(["selftaught", *map(quoted, arguments)])


def quoted(argument: str | Path) -> str:
    """One word of a shell's command line, on one line whatever it holds."""
    text = str(argument)
    if isinstance(argument, Path) and text.startswith("-"):
        text = f".{os.sep}{text}"
    if text.isprintable():
        return shlex.quote(text)
    # Line ends, control characters and bytes that are no text: the form that bash, zsh, ksh and busybox know.
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))  # octal ends after three digits
