"""The sections whose keys depend on a choice: [task], [engine] and [training], each by its key `name`.

Every entry of a table owns its settings; only those of the chosen entry exist in a config.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from selftaught import engines, tasks, training
from selftaught.records.sections import Section
from selftaught.tasks.outside import OutsideConfig


@dataclass(frozen=True, slots=True)
class Choice:
    """A section of which the table has one form for each value of `name`."""

    table: Callable[[], Mapping[str, type[Section]]]
    default: str | None = None
    """None if a name must be given."""
    what: str = ""
    """Begins the description of `name`."""
    more: str = ""
    """Ends it."""
    other: type[Section] | None = None
    """The form for a name that is not in the table, with the description of `name`; without it the default entry
    refuses such a name."""

    def validated(self, value: object) -> object:
        """The section's values as the settings of the entry that they name; anything but a mapping as it is.

        A key that belongs to another entry is left out if its value says nothing: an absent (None) one or the key's
        default, since a run.json may list the keys of every task. Raises pydantic's ValidationError.
        """
        if not isinstance(value, Mapping):
            return value
        entry = self._entry(value)
        known = self.fields()
        return entry.model_validate(
            {
                key: v
                for key, v in value.items()
                if key in entry.model_fields or key not in known or (v is not None and v != known[key].default)
            }
        )

    def fields(self) -> dict[str, FieldInfo]:
        """Every key of every entry, in documented order."""
        fields = {"name": self._name_field()}
        for entry in (*([self.other] if self.other else []), *self.table().values()):
            fields |= {key: field for key, field in entry.model_fields.items() if key not in fields}
        return fields

    def field(self, key: str, values: Mapping[str, Any]) -> FieldInfo:
        """The field of a key in the entry that the section's values choose."""
        own = self._entry(values).model_fields
        return own[key] if key in own and key != "name" else self.fields()[key]

    def owners(self, key: str) -> list[str]:
        """The entries that have a key."""
        return [name for name, entry in self.table().items() if key in entry.model_fields]

    def has(self, name: object, key: str) -> bool:
        """Whether the section has a key if it is this name that it gives."""
        return key in self._entry({"name": name}).model_fields

    def is_of_all(self, key: str) -> bool:
        return len(self.owners(key)) == len(self.table())

    def _entry(self, values: Mapping[str, Any]) -> type[Section]:
        """That of an unknown name is `other`, or the default one, whose own `name` refuses it."""
        name, table = values.get("name", self.default), self.table()
        if isinstance(name, str) and name in table:
            return table[name]
        return self.other or table[str(self.default)]

    def _name_field(self) -> FieldInfo:
        if self.other:
            return self.other.model_fields["name"]
        *first, last = (f"`{name}` ({of.model_fields['name'].description})" for name, of in self.table().items())
        listed = f"{', '.join(first)} or {last}" if first else last
        literal: Any = Literal
        return FieldInfo.from_annotated_attribute(
            literal[tuple(self.table())],
            Field(self.default, description=f"{self.what}: {listed}.{self.more}"),
        )


CHOICES: Mapping[str, Choice] = {
    "task": Choice(lambda: {name: source.settings for name, source in tasks.TASKS.items()}, other=OutsideConfig),
    "training": Choice(lambda: training.TRAINERS, "sft", "How a model is trained"),
    "engine": Choice(
        lambda: engines.ENGINES, "local", "What generates completions", " docs/engines.md says which to take."
    ),
}
"""By section. The tables are looked up when they are used."""
