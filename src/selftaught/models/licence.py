"""The licence of a model, as its folder states it: in the front matter of README.md, and in files of the licence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.models.places import BUILTIN

NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
"""How files begin that must go with a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What is known of a licence; nothing of it is guessed."""

    id: str | None = None
    """As the hub names it, such as `apache-2.0`, or `other`; None where it is not stated."""
    name: str | None = None
    link: str | None = None
    stated_in: str = ""
    files: tuple[Path, ...] = ()
    """The licence's text, and notices, in the model's folder."""


def licence_of(folder: Path, *, named: str) -> Licence:
    """What a model's folder states of its licence; `named` is the model as a config names it."""
    if named in BUILTIN:
        return Licence(id="apache-2.0", stated_in="the licence of selftaught, which ships the model")
    files = tuple(p for p in sorted(folder.glob("*")) if p.is_file() and p.name.upper().startswith(NAMES))
    stated = _front_matter(folder / "README.md")
    first = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in stated.items()}
    texts = {key: value for key, value in first.items() if isinstance(value, str) and value.strip()}
    return Licence(
        id=texts.get("license"),
        name=texts.get("license_name"),
        link=texts.get("license_link"),
        stated_in="its model card" if texts.get("license") else "",
        files=files,
    )


def _front_matter(card: Path) -> dict[str, Any]:
    """The data at the head of a model card; none where it is not there or cannot be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not card.is_file():
        return {}
    try:
        data: dict[str, Any] = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, YAMLError):
        return {}  # somebody else's page, of which nothing is known then
    return data
