"""Which samples are meant: the filters of the page, as they stand in its links and in requests to its server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from selftaught.records.errors import ConfigError

MIN_PART = 3
"""Characters of a text that may be any part of another one: the index knows no shorter ones."""
MAX_TEXT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """A sample is meant if it has every value that is given; None asks for nothing."""

    problem: str | None = None
    iteration: int | None = None
    stage: str | None = None
    kind: str | None = None
    verdict: str | None = None
    class_name: str | None = None
    kept: bool | None = None
    reason: str | None = None
    source: str | None = None
    check: tuple[str, bool] | None = None
    """The name of a check, and whether it passed."""
    text: str | None = None
    """Stands in completion, prediction, question, answer or the problem's id, in letters of either case; a text of one
    or two characters as a line of its own, as short predictions and answers are."""

    @property
    def searched_for(self) -> str | None:
        """What stands in `searched_text` of a sample that is meant."""
        return self.text if self.text is None or len(self.text) >= MIN_PART else f"\n{self.text}\n"

    def matches(self, sample: Mapping[str, Any], problem: Mapping[str, Any]) -> bool:
        """Whether a sample (`facts.sample_values`) of a problem (`facts.problem_values`) is meant."""
        wanted = {
            "problem_id": self.problem,
            **{name: getattr(self, name) for name in ("iteration", "stage", "kind", "verdict", "kept", "reason")},
            "source": self.source,
        }
        if any(value is not None and sample[name] != value for name, value in wanted.items()):
            return False
        if self.class_name is not None and problem["class_name"] != self.class_name:
            return False
        if self.check is not None:
            result = sample["checks"].get(self.check[0])
            if result is None or result["passed"] != self.check[1]:
                return False
        text = searched_text(
            sample["completion"], sample["prediction"], problem["question"], problem["answer"], problem["id"]
        )
        return self.searched_for is None or self.searched_for.lower() in text.lower()


def searched_text(completion: str, prediction: str | None, question: str, answer: str, id: str) -> str:
    """Each begins and ends a line."""
    return "\n".join(("", completion, prediction or "", question, answer, id, ""))


KEYS = {"class": "class_name", "q": "text"}
"""How a filter is called in links, where that is not its name."""


def filters_from(values: Mapping[str, str]) -> Filters:
    """The filters of a link or a request. Raises ConfigError for a name or a value that does not exist."""
    known = {field.name for field in fields(Filters)} - set(KEYS.values()) | set(KEYS)
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"unknown filter {unknown[0]!r}; expected some of {', '.join(sorted(known))}")
    return Filters(**{KEYS.get(key, key): _value(key, text) for key, text in values.items() if text != ""})


def _value(key: str, text: str) -> Any:
    if key == "iteration":
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            raise ConfigError(f"iteration={text!r}: expected a whole number")
        return int(text)
    if key == "kept":
        if text not in ("yes", "no"):
            raise ConfigError(f"kept={text!r}: expected yes or no")
        return text == "yes"
    if key == "check":
        name, _, outcome = text.rpartition(":")
        if not name or outcome not in ("passed", "failed"):
            raise ConfigError(f"check={text!r}: expected NAME:passed or NAME:failed")
        return name, outcome == "passed"
    if key == "q" and len(text) > MAX_TEXT:
        raise ConfigError(f"a text to search for has at most {MAX_TEXT} characters, this one {len(text)}")
    if key == "q" and "\0" in text:
        raise ConfigError("a text to search for holds no NUL character, which the index cannot be asked for")
    return text
