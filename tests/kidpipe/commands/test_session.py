"""What every command starts with: names that people give become folders of the store, and no others."""

from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidpipe.commands.session import Session, open_session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(None, [f"store.path={tmp_path}"], {}, use_file=False)


@pytest.mark.parametrize("name", ["kid", "a b'c", "ünï-中", ".hidden", "-x", "a..b", "x" * 200])
def test_a_name_is_a_folder_below_its_kind(name: str, session: Session, tmp_path: Path) -> None:
    assert session.folder_of("runs", name) == tmp_path / "runs" / name


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "/tmp/x", "a\\b", "a\0b", "x" * 201, "ü" * 101])
def test_no_name_leads_elsewhere(name: str, session: Session) -> None:
    with pytest.raises(KidpipeError, match="is no name"):
        session.folder_of("eval", name)
