"""A section of settings, and the kinds of values that settings have.

Every room owns the sections that it reads; config/settings.py puts them together. None stands for a setting that is
left out, since TOML has no word for that.
"""

import json
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Value = str | int | float | bool | tuple[str, ...] | None
"""The value of a setting; None for one that is left out."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
TextOrFalse = Text | Literal[False]
OrAll = Positive | Literal["all"]
OrAuto = Positive | Literal["auto"]
SwitchOrAuto = bool | Literal["auto"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def expected(field: FieldInfo) -> str:
    """What a setting may be, in words: type and range."""
    kinds = [kind for kind in _alternatives(field) if kind is not NoneType]
    return " or ".join(_in_words(kind, field.metadata) for kind in kinds)


def kinds_of(field: FieldInfo) -> list[Any]:
    """The types that a setting may have; NoneType for one that may be left out."""
    return [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in _alternatives(field)]


def _alternatives(field: FieldInfo) -> tuple[Any, ...]:
    is_union = get_origin(field.annotation) in (Union, UnionType)
    return get_args(field.annotation) if is_union else (field.annotation,)


def _in_words(kind: Any, metadata: Sequence[Any]) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {_in_words(get_args(kind)[0], ())}"
    if get_origin(kind) is Literal:
        return " or ".join(map(json.dumps, get_args(kind)))
    if get_origin(kind) is Annotated:
        kind, *annotations = get_args(kind)
        metadata = [*metadata, *(bound for field in annotations for bound in field.metadata)]
    word = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        for bound in metadata
        if hasattr(bound, name)
    ]
    return " ".join([word, ", ".join(bounds)]).strip()
