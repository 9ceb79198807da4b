"""Columns become Arrow arrays, and arrays of one shape become arrays of a wider one.

`batch_of` serves rows that are in hand. `widened` serves chunks written before a later row
showed that their type was too narrow: it works on the Arrow data alone, so no row is read twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

from asyncdistil.batch import Row
from asyncdistil.distiset.columns import Column, columns_of, json_text
from asyncdistil.distiset.shape import (
    MAX_DECIMAL_DIGITS,
    NULL,
    Shape,
    is_unsigned,
    layout,
    notes,
)

_TYPES = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "float": pa.float64(),
    "text": pa.string(),
    "json": pa.string(),
    "bytes": pa.binary(),
    "datetime": pa.timestamp("us"),
    "instant": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "duration": pa.duration("us"),
}


def arrow_type(shape: Shape) -> pa.DataType:
    """Arrow type that holds values of this shape."""
    match shape.kind:
        case "int":
            return pa.uint64() if is_unsigned(shape) else pa.int64()
        case "decimal":
            return pa.decimal128(MAX_DECIMAL_DIGITS, shape.low)
        case "list":
            return pa.list_(arrow_type(shape.item or NULL))
        case "struct" if shape.members:
            return pa.struct(_fields(shape.members))
        case "struct":
            return pa.string()
    return _TYPES[shape.kind]


def arrow_schema(members: Mapping[str, Shape]) -> pa.Schema:
    """Schema of a table with these columns."""
    named = zip(column_names(members), members.values(), strict=True)
    return pa.schema([pa.field(name, arrow_type(shape)) for name, shape in named])


def column_names(names: Mapping[str, Shape]) -> list[str]:
    """Column names as Arrow can hold them: lone surrogates are written as an escape."""
    legal: dict[str, None] = {}
    for name in names:
        spelled = name.encode("utf-8", "backslashreplace").decode()
        while spelled in legal:
            spelled += "_"
        legal[spelled] = None
    return list(legal)


def _fields(members: Mapping[str, Shape]) -> list[pa.Field]:
    return [pa.field(name, arrow_type(shape)) for name, shape in members.items()]


def batch_of(
    columns: Mapping[str, Column], shapes: Mapping[str, Shape], rows: int
) -> pa.RecordBatch:
    """Build one record batch.

    Args:
        columns: What the rows hold.
        shapes: Columns of the batch; each covers the column of the same name, if there is one.
        rows: Number of rows.
    """
    absent = Column(NULL, [None] * rows)
    arrays = [_array_of(columns.get(name, absent), shape) for name, shape in shapes.items()]
    return _batch(arrays, shapes, rows)


def _batch(arrays: list[pa.Array], shapes: Mapping[str, Shape], rows: int) -> pa.RecordBatch:
    if not arrays:
        # A batch made of no arrays has no rows; a struct without members keeps the count.
        return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(shapes))


def _array_of(column: Column, shape: Shape) -> pa.Array:
    kind, values = shape.kind, column.values
    if column.shape.kind == "null":
        return pa.nulls(len(values), arrow_type(shape))
    if kind == "json":
        return pa.array([None if v is None else json_text(v) for v in values], pa.string())
    if kind == "list":
        assert column.item is not None
        offsets = [0, *accumulate(0 if v is None else len(v) for v in values)]
        items = _array_of(column.item, shape.item or NULL)
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), items, type=arrow_type(shape), mask=_null_mask(values)
        )
    if kind == "struct":
        if not shape.members:
            return pa.array([None if v is None else "{}" for v in values], pa.string())
        absent = Column(NULL, [None] * len(values))
        children = [
            _array_of(column.members.get(key, absent), member)
            for key, member in shape.members.items()
        ]
        return pa.StructArray.from_arrays(
            children, fields=_fields(shape.members), mask=_null_mask(values)
        )
    return pa.array(values, arrow_type(shape))


def _null_mask(values: Sequence[Any]) -> pa.Array | None:
    return pa.array([v is None for v in values], pa.bool_()) if None in values else None


def widened(
    batch: pa.RecordBatch, old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> pa.RecordBatch:
    """Convert a batch written for the columns ``old`` to the columns ``new`` that cover them."""
    positions = {name: position for position, name in enumerate(old)}
    arrays = [
        _widen(batch.column(positions[name]), old[name], shape)
        if name in positions
        else pa.nulls(batch.num_rows, arrow_type(shape))
        for name, shape in new.items()
    ]
    return _batch(arrays, new, batch.num_rows)


def _widen(array: pa.Array, old: Shape, new: Shape) -> pa.Array:
    if layout(old) == layout(new):
        return array
    if old.kind == "null":
        return pa.nulls(len(array), arrow_type(new))
    if new.kind == "json":
        return pa.array(
            [None if v is None else json_text(_revived(v, old)) for v in array.to_pylist()],
            pa.string(),
        )
    if new.kind == "list":
        items = _widen(array.values, old.item or NULL, new.item or NULL)
        return pa.ListArray.from_arrays(
            array.offsets, items, type=arrow_type(new), mask=_validity_mask(array)
        )
    if new.kind == "struct":
        children = [
            _widen(array.field(key), old.members[key], member)
            if key in old.members
            else pa.nulls(len(array), arrow_type(member))
            for key, member in new.members.items()
        ]
        return pa.StructArray.from_arrays(
            children, fields=_fields(new.members), mask=_validity_mask(array)
        )
    return array.cast(arrow_type(new))


def _validity_mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _revived(value: Any, shape: Shape) -> Any:
    """Read back JSON text inside a value, so that it is not quoted twice."""
    if value is None:
        return None
    if shape.kind == "json" or (shape.kind == "struct" and not shape.members):
        return json.loads(value)
    if shape.kind == "list" and shape.item is not None:
        return [_revived(item, shape.item) for item in value]
    if shape.kind == "struct":
        return {key: _revived(value[key], member) for key, member in shape.members.items()}
    return value


def empty_table(columns: Sequence[str]) -> pa.Table:
    """A table that has columns and no row."""
    return pa.table({name: pa.nulls(0) for name in columns})


def table_of(rows: Sequence[Row]) -> tuple[pa.Table, tuple[str, ...]]:
    """Build a table of rows in memory, and a note for each column that had to change form."""
    columns = columns_of(rows)
    shapes = {name: column.shape for name, column in columns.items()}
    batch = batch_of(columns, shapes, len(rows))
    return pa.Table.from_batches([batch]), notes(shapes)
