"""The text of a config file, and the line on which a setting stands in it."""

import codecs
import re

from selftaught.machine.paths import LFS_POINTER
from selftaught.records.errors import ConfigError


def text_of(content: bytes, where: str) -> str:
    """The text of a config file, without its byte order mark and with Unix line ends."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ConfigError(f"{where}: UTF-16 or UTF-32 text, or no text, expected UTF-8; save the file as UTF-8")
    if content.startswith(LFS_POINTER):
        raise ConfigError(f"{where} is a Git LFS pointer, not the file itself; run `git lfs pull` where it is")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{where}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def at_line(where: str, text: str, key: str) -> str:
    """`where:line` of a `section.key` in TOML text, or `where` alone if it is not written there."""
    section, _, name = key.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            current = header[1].strip()
        elif re.match(rf"\s*(\"?){re.escape(name if current else key)}\1\s*=", line) and current in (section, ""):
            return f"{where}:{number}"
    return where
