"""Some tens of the odd databases; `python -m tests.kidcore.sql.odd_databases 500` tries as many as are asked for."""

import pytest

from tests.kidcore.sql.odd_databases import check_many


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_odd_databases_go_through_every_stage(dialect: str) -> None:
    check_many(dialect, 15)
