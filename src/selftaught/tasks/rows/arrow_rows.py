"""Rows of an Arrow table (Parquet, the hub), with short floats as the numbers that were written into them.

A column of 32-bit floats holds 0.7 as the nearest such number; widened to 64 bits it would read 0.699999988079071. So
a number is read as the shortest decimal that the column's own type stores as this very value.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow


def arrow_rows(table: "pyarrow.Table") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    for field in table.schema:
        if _holds_short_floats(field.type):
            for row in rows:
                row[field.name] = _shortest(row[field.name], field.type)
    return rows


def _holds_short_floats(kind: "pyarrow.DataType") -> bool:
    import pyarrow.types as types

    if types.is_float16(kind) or types.is_float32(kind):
        return True
    if types.is_dictionary(kind):
        return _holds_short_floats(kind.value_type)
    return any(_holds_short_floats(kind.field(i).type) for i in range(kind.num_fields))


def _shortest(value: Any, kind: "pyarrow.DataType") -> Any:
    """The value, with every 16- and 32-bit float in it replaced by the shortest decimal that its type stores so."""
    import numpy
    import pyarrow.types as types

    if value is None or not _holds_short_floats(kind):
        return value
    if types.is_dictionary(kind):
        return _shortest(value, kind.value_type)
    if types.is_float16(kind) or types.is_float32(kind):
        return float(str((numpy.float16 if types.is_float16(kind) else numpy.float32)(value)))
    if types.is_struct(kind):
        return {key: _shortest(inner, kind.field(key).type) for key, inner in value.items()}
    if types.is_map(kind):
        return {_shortest(key, kind.key_type): _shortest(inner, kind.item_type) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortest(inner, kind.value_type) for inner in value]
    return value
