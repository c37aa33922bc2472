"""Every column says what it holds."""

from kidcore.store.column_descriptions import COLUMNS
from kidcore.store.stages import STAGE_TABLE


def test_every_column_of_every_stage_is_described_and_no_other() -> None:
    named = {column.split()[0] for traits in STAGE_TABLE.values() for column in traits.columns}
    assert named == COLUMNS.keys()
    assert all(text and text[-1] != "." for text in COLUMNS.values())
