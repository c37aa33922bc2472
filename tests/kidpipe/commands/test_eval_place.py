"""`kidpipe eval` where nothing can be written: said before a model is asked, not hours later."""

from pathlib import Path

from tests.kidpipe.commands.running import Cli


def test_a_place_that_takes_nothing_is_told_before_the_engine_starts(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "eval").write_text("no folder")
    done = cli("eval", str(tiny_model), eval__limit=2)
    assert done.code == 1
    assert f"where: {tmp_path}/artifacts/eval\n" in done.err
    assert "starting the engine" not in done.err
