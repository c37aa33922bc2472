"""The report on stores with odd names and broken files: a page, or a message that says what to do."""

from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidcore.store.frames import read_frame
from kidpipe.commands.report import report
from kidpipe.commands.session import Session, open_session
from kidpipe.report import plots
from tests.test_fixture_store import FIXTURE, copied_store


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(None, [], copied_store(FIXTURE, tmp_path), use_file=False)


@pytest.mark.parametrize("names", [["nothing"], ["kid-04bb9b9b", "nothing"], ["../runs/kid-04bb9b9b"]])
def test_a_run_that_is_not_there_is_named(session: Session, tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(KidpipeError, match=f"no run {names[-1]}") as refused:
        report(session, "train", names, tmp_path / "page.html", as_json=True)
    assert "kid-04bb9b9b, sft-8265ecdb" in refused.value.fix
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_broken_shard_is_named(session: Session, is_gone: bool) -> None:
    shard = next((session.store.root / "rewrite").glob("*.parquet"))
    if is_gone:
        shard.unlink()
    else:
        shard.write_bytes(b"of another program")
    with pytest.raises(KidpipeError, match="damaged shard") as refused:
        read_frame(session.store, session.manifest(), "rewrite")
    assert refused.value.where == f"rewrite/{shard.name}"


@pytest.mark.parametrize("name", ["cost_$_in_$", "a$b^$", "$\\x$"])
def test_a_dollar_in_a_name_begins_no_formula(name: str) -> None:
    assert name in plots.lines("loss", {name: ([1, 2], [3, 4])}, x="step", y="loss")
    assert name in plots.grouped_bars("by database", [name], {"mine": [1.0]})
    assert name in plots.bars("by strategy", {name: 1.0})


def test_a_name_that_begins_with_an_underscore_stands_in_the_legend() -> None:
    assert "_mine" in plots.lines("loss", {"_mine": ([1, 2], [3, 4])}, x="step", y="loss")
    assert "_mine" in plots.grouped_bars("by database", ["shop"], {"_mine": [1.0]})
