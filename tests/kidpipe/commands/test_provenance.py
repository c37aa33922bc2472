"""`kidpipe inspect --shard`, and what stands in the footers of a real build."""

import json
import shutil
from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidcore.store.provenance import Provenance
from kidcore.store.store import Shard
from kidpipe.commands.provenance import inspect_shard
from kidpipe.commands.session import open_session
from tests.conftest import configure
from tests.pipeline.running import files, made, run_build, store_of
from tests.test_fixture_store import FIXTURE, copied_store


@pytest.fixture
def old(tmp_path: Path) -> dict[str, object]:
    return copied_store(FIXTURE, tmp_path)


def shown(old: dict[str, object], file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    inspect_shard(open_session(None, [], old, use_file=False), file, as_json=True)
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_a_shard_of_an_old_store_made_again_says_its_making_and_makes_nothing_stale(
    old: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(old)
    store = store_of(config)
    manifest = run_build(config).manifest
    lost = [store.root / files(manifest, stage)[1] for stage in ("ingest", "mask", "rewrite")]
    for path in lost:
        path.unlink()
    again = run_build(config)
    assert made(again) == {"ingest": 1, "mask": 1, "rewrite": 1}
    assert again.manifest == manifest
    for path in lost:
        shard = Shard.parse(path.parent.name, path.name)
        assert shard is not None
        assert store.is_as_written(shard)
        said = store.provenance(shard)
        assert Provenance.from_json(said).key == shard.key
        assert list(said["inputs"]) == {"ingest": [], "mask": ["ingest"], "rewrite": ["ingest", "mask", "predict"]}[shard.stage]
    report = shown(old, lost[1], capsys)
    assert report["in_latest"] == {"part": 0, "view": 1}
    assert report["whole"] is True
    assert report["made"]["engine"] is None  # type: ignore[index]


def test_a_shard_of_before_is_told_from_the_log(old: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    store = store_of(configure(old))
    path = next((store.root / "score").glob("*.parquet"))
    report = shown(old, path, capsys)
    assert report["provenance"] is None
    assert report["settings"]["score.top_k"] == 8  # type: ignore[index]
    assert report["whole"] is True
    inspect_shard(open_session(None, [], old, use_file=False), path, as_json=False)
    assert "kidpipe 0.1 made it" in capsys.readouterr().out


def test_a_file_outside_a_store_and_one_that_is_none(
    old: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(next((store_of(configure(old)).root / "score").glob("*.parquet")), tmp_path / "x.parquet")
    assert shown(old, Path(copy), capsys)["whole"] is None
    (tmp_path / "y.parquet").write_bytes(b"PAR1")
    for wrong in ("y.parquet", "gone.parquet"):
        with pytest.raises(KidpipeError, match="no shard can be read"):
            shown(old, tmp_path / wrong, capsys)
