"""A stage's name in; the Arrow schema of its shards out, from the columns in its row of kidcore/store/stages.py."""

from functools import cache

import pyarrow as pa

from kidcore.store.column_descriptions import COLUMNS
from kidcore.store.stages import STAGE_TABLE

_TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "float16": pa.float16(),
    "float32": pa.float32(),
}


@cache
def schema_of(stage: str) -> pa.Schema:
    """Its columns in their order; only one whose type ends with `?` may hold nulls."""
    return pa.schema([_field(*column.split()) for column in STAGE_TABLE[stage].columns])


def described(schema: pa.Schema) -> pa.Schema:
    """The same columns, with what each holds as its metadata `description`."""
    return pa.schema([field.with_metadata(_description(field.name)) for field in schema])


def _description(name: str) -> dict[str, str] | None:
    return {"description": COLUMNS[name]} if name in COLUMNS else None


def _field(name: str, kind: str) -> pa.Field:
    element = _TYPES[kind.strip("[]?")]
    return pa.field(name, pa.list_(element) if kind.startswith("[") else element, nullable=kind.endswith("?"))
