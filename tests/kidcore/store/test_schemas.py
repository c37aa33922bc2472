"""The columns of a stage's row as Arrow reads them."""

import pyarrow as pa
import pytest

from kidcore.store.schemas import schema_of
from kidcore.store.stages import STAGE_TABLE, STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_schema_is_its_row_in_order(stage: str) -> None:
    schema = schema_of(stage)
    assert [f"{field.name} {written(field)}" for field in schema] == list(STAGE_TABLE[stage].columns)
    assert schema_of(stage) is schema
    assert len(set(schema.names)) == len(schema.names)


def written(field: pa.Field) -> str:
    """A field's type in the words of the table."""
    is_list = pa.types.is_list(field.type)
    element = field.type.value_type if is_list else field.type
    name = {"float": "float32", "halffloat": "float16"}.get(str(element), str(element))
    return (f"[{name}]" if is_list else name) + "?" * field.nullable


def test_no_columns_are_lists_of_lists_and_only_reasons_are_left_out() -> None:
    """Readers go through flat buffers, and a null would shift them."""
    for stage in STAGES:
        for field in schema_of(stage):
            assert not pa.types.is_list(field.type) or not pa.types.is_nested(field.type.value_type), (stage, field.name)
            assert field.nullable == (field.name == "reason"), (stage, field.name)
