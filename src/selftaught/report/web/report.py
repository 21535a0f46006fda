"""`selftaught report --html`: one file with the page and its data, which opens from disk."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from selftaught.machine.paths import link_to_nothing
from selftaught.records.errors import StoreError
from selftaught.report.web.assets import one_file
from selftaught.report.web.page_data import MAX_BYTES, page_data


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlReport:
    path: Path
    samples: int
    """In the file."""
    seen: int
    """In the run folders."""


def write_html(folders: Sequence[Path], path: Path | None = None, *, max_bytes: int = MAX_BYTES) -> HtmlReport:
    """Write the page of runs or comparisons, by default report.html in their folder, or in report/ for several.

    Of more than `max_bytes` of samples, as JSON, the file holds a selection. Raises ConfigError for a run that is given
    twice, and StoreError for a folder that is neither and for a file that cannot be written.
    """
    assert folders, "a page needs at least one folder"
    data = page_data(folders, max_bytes=max_bytes)
    folder = folders[0] if len(folders) == 1 else Path("report")
    target = path or folder / "report.html"
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(one_file(data), encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        reason = link_to_nothing(target) or error.strerror or error
        raise StoreError(f"cannot write the page to {target}: {reason}; give another file, --html FILE") from error
    return HtmlReport(
        path=target,
        samples=sum(len(run["samples"]) for run in data["runs"]),
        seen=sum(run["samples_seen"] for run in data["runs"]),
    )
