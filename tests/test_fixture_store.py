"""A store that an earlier kidpipe wrote: today's code reads it, plans it as done, and computes the same keys, bytes and losses.

Whoever changes identity on purpose makes the fixture anew (tests/fixtures/make_store.py) and says so in the CHANGELOG.
"""

import json
import math
import shutil
from pathlib import Path

import pytest

from kidcore.store.graph import Grid
from kidcore.store.manifest import read_manifest
from kidcore.store.stages import STAGE_TABLE
from kidpipe.commands.session import open_session
from kidpipe.commands.store import verify
from kidpipe.commands.train import train
from pipeline.context import open_context
from pipeline.stages import every_stage
from tests.conftest import configure
from tests.pipeline.running import files, made, run_build, store_of

FIXTURE = Path(__file__).parent / "fixtures" / "store_v2"
RUNS = sorted(path.name for path in (FIXTURE / "artifacts" / "runs").iterdir())
# What these runs read, and what they are called since 0.2: 0.1.0 tied them to the whole manifest.
CONTENT = {"sft": "6604f9206a0541fa515dd42153060384", "kid": "726c1055d91e4bcc7b4385773ec71df1"}
NAMES = {"sft": "sft-5b269324", "kid": "kid-7b8e7003"}
# Computed without a model: the same bytes on every machine.
EXACT = ("ingest", "mask")
# Stages that came after the fixture was made.
LATER = ("verify", "generate_outcome", "rollout", "rollout_outcome", "rollout_score")


@pytest.fixture
def old(tmp_path: Path) -> dict[str, object]:
    return copied_store(FIXTURE, tmp_path)


def copied_store(fixture: Path, tmp_path: Path) -> dict[str, object]:
    """The settings of a fixture, with a copy of its store."""
    shutil.copytree(fixture / "artifacts", tmp_path / "artifacts")
    places = {"data.path": fixture / "data", "teacher.model": fixture / "model", "train.student": fixture / "model"}
    settings: dict[str, object] = json.loads((fixture / "settings.json").read_text(encoding="utf-8"))
    return settings | {name: str(path) for name, path in places.items()} | {"store.path": str(tmp_path / "artifacts")}


def test_everything_is_planned_as_done(old: dict[str, object]) -> None:
    config = configure(old)
    context, store = open_context(config), store_of(config)
    try:
        grid = Grid(every_stage(context), context.parts, store)
        wanted = {row.name for row in STAGE_TABLE.values() if row.is_wanted(config)}
        assert {stage.name: grid.is_finished(stage) for stage in grid.stages} == {name: name not in LATER for name in wanted}
    finally:
        context.close()


@pytest.mark.parametrize("until", ["score", "generate"])
def test_a_build_makes_nothing_and_the_same_manifest(old: dict[str, object], until: str) -> None:
    store = store_of(configure(old))
    before = {path.stem: path.read_bytes() for path in store.root.glob("manifests/*.json")}
    result = run_build(configure(old), until=until)
    assert made(result) == {}
    after = {path.stem: path.read_bytes() for path in store.root.glob("manifests/*.json")}
    assert before == after


def test_every_shard_is_whole(old: dict[str, object]) -> None:
    verify(open_session(None, [], old, use_file=False), deep=True, as_json=True)


def test_what_no_model_decides_is_made_with_the_same_bytes(old: dict[str, object], tmp_path: Path) -> None:
    anew = old | {"store.path": str(tmp_path / "anew")}
    result = run_build(configure(anew), until="mask")
    manifest = read_manifest(store_of(configure(old)))
    assert manifest is not None
    for stage in EXACT:
        assert files(result.manifest, stage) == files(manifest, stage)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_has_the_same_name_identity_and_losses(old: dict[str, object], run: str) -> None:
    before, method = FIXTURE / "artifacts" / "runs" / run, run.rpartition("-")[0]
    session = open_session(None, [], old | {"train.method": method}, use_file=False)
    folder = Path(str(old["store.path"])) / "runs" / run
    found = train(session, name="", as_json=True)
    assert (Path(found["run"]), found["was_finished"]) == (folder, True), "a run of before is known again"
    identity = json.loads((folder / "run.json").read_text())
    assert (identity["schema_version"], identity["shards"]) == (3, CONTENT[method])
    shutil.rmtree(folder)
    folder = Path(train(session, name="", as_json=True)["run"])
    assert folder.name == NAMES[method]
    assert json.loads((folder / "run.json").read_text()) == identity
    lines = zip(_log(folder), _log(before), strict=True)
    assert all(_is_same(new, old_line) for new, old_line in lines)


def _log(folder: Path) -> list[dict[str, object]]:
    """Without the look at the start, which 0.1.0 did not take."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["step"]]


def _is_same(new: dict[str, object], old: dict[str, object]) -> bool:
    """Whether two lines of a log say the same, times aside; the last bits of a loss depend on the processor.

    How many rows a pack takes is not what is computed: since 0.2 databases do not share the few tokens that prompts begin with.
    """
    for name, value in old.items():
        if "second" in name or name == "trunk_tokens":
            continue
        other = new[name]
        if isinstance(value, float) and isinstance(other, float):
            if not math.isclose(value, other, rel_tol=1e-3, abs_tol=1e-5):
                return False
        elif value != other:
            return False
    return True
