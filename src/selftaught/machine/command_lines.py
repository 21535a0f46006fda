"""Commands for a person to type: quoted so that a shell passes on exactly what was meant."""

import os
import shlex
from pathlib import Path


def command(*arguments: str | Path) -> str:
    """`selftaught` with these arguments, to paste into a shell; a path never reads as an option."""
    return " ".join(["selftaught", *map(quoted, arguments)])


def quoted(argument: str | Path) -> str:
    """One word of a shell's command line, on one line whatever characters it has."""
    text = str(argument)
    if isinstance(argument, Path) and text.startswith("-"):
        text = f".{os.sep}{text}"
    if text.isprintable():
        return shlex.quote(text)
    # For line ends, control characters and bytes that are no text: bash, zsh, ksh and busybox know this form.
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))  # octal ends after three digits
