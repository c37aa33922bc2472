"""What a build tells its readers: equal builds in equal bytes, nothing lost on the way through JSON, damage named."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid
from kidcore.store.manifest import (
    MANIFEST_VERSION,
    Facts,
    Manifest,
    TeacherRecord,
    find_manifest,
    kept_manifest,
    make_manifest,
    rates,
    read_head,
    read_manifest,
    write_manifest,
)
from kidcore.store.store import Store
from tests.kidcore.store.grids import graph, parts

FACTS = Facts(eos_id=2, mask_id=3, tokenizer="t" * 32, max_tokens=99, views=2, teacher=TeacherRecord("local:x", 500))
TABLE = pa.table({"x": [1, 2, 3]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def finished(store: Store, *sources: str, views: int = 2) -> Grid:
    """A grid of real shards whose counts are told apart by part and view."""
    grid = Grid(graph(views=views), parts(*sources), store)
    for one in grid.stages:
        for cell in list(grid.cells(one)):
            aside = {"too long": cell.part + 1} if one.name == "ingest" else {}
            counts = {"in": 10, "out": 10 - aside.get("too long", 0), "masked": cell.view + 1}
            grid.add(store.commit(one.name, cell.key, TABLE, counts | ({"set_aside": aside} if aside else {})))
            grid.look(one, grid.parts[cell.part], cell.view)
    return grid


def test_it_names_every_shard_and_adds_up_what_they_counted(store: Store) -> None:
    grid = finished(store, "a", "b")
    manifest = make_manifest(grid, store, FACTS)
    assert manifest.counts["ingest"] == {"in": 20, "out": 17, "masked": 2, "set_aside": {"too long": 3}}
    assert manifest.counts["mask"] == {"in": 40, "out": 40, "masked": 6}
    assert [len(list(manifest.files(name))) for name in ("ingest", "mask", "rewrite")] == [2, 4, 4]
    assert set(manifest.files()) == {cell.shard.file for one in grid.stages for cell in grid.cells(one)}
    assert all((store.root / file).is_file() for file in manifest.files())
    assert [part.rows for part in manifest.parts] == [10, 10]


def test_an_unfinished_grid_has_no_manifest(store: Store) -> None:
    grid = finished(store, "a")
    store.path(next(iter(grid.cells(grid.stages[2]))).shard).unlink()
    with pytest.raises(AssertionError):
        make_manifest(Grid(graph(), parts("a"), store), store, FACTS)


def test_equal_builds_have_equal_bytes_and_any_difference_another_digest(store: Store, tmp_path: Path) -> None:
    manifest = make_manifest(finished(store, "a", "b"), store, FACTS)
    elsewhere = Store(tmp_path / "elsewhere")
    assert make_manifest(finished(elsewhere, "a", "b"), elsewhere, FACTS) == manifest
    for manifest_store, one in ((store, manifest), (elsewhere, manifest)):
        write_manifest(manifest_store, one)
    assert (store.root / "manifest.json").read_bytes() == (elsewhere.root / "manifest.json").read_bytes()
    others = [
        replace(FACTS, eos_id=9),
        replace(FACTS, views=None),
        replace(FACTS, teacher=None),
        replace(FACTS, teacher=TeacherRecord("local:x", 501)),
    ]
    digests = {make_manifest(Grid(graph(), parts("a", "b"), store), store, facts).digest for facts in others}
    assert len(digests | {manifest.digest}) == 5


@pytest.mark.parametrize("facts", [FACTS, replace(FACTS, views=None, teacher=None)])
@pytest.mark.parametrize("views", [1, 3])
def test_nothing_is_lost_on_the_way_through_json(store: Store, facts: Facts, views: int) -> None:
    manifest = make_manifest(finished(store, "a", views=views), store, facts)
    assert Manifest.from_json(json.loads(json.dumps(manifest.as_json()))) == manifest
    write_manifest(store, manifest)
    assert read_manifest(store) == kept_manifest(store, manifest.digest) == manifest


def test_before_the_first_build_there_is_none(store: Store) -> None:
    assert read_manifest(store) is None
    assert kept_manifest(store, "0" * 32) is None
    assert read_head(store) == {"digest": None, "shards": {}}


def test_the_head_says_as_much_as_status_needs(store: Store) -> None:
    manifest = make_manifest(finished(store, "a", "b"), store, FACTS)
    write_manifest(store, manifest)
    assert read_head(store) == {
        "schema_version": MANIFEST_VERSION,
        "digest": manifest.digest,
        "shards": {"ingest": 2, "mask": 4, "rewrite": 4},
    }


def test_one_that_is_not_to_be_the_latest_is_kept_and_the_latest_stays(store: Store) -> None:
    first = make_manifest(finished(store, "a"), store, FACTS)
    second = make_manifest(finished(store, "b"), store, FACTS)
    write_manifest(store, first)
    write_manifest(store, second, is_latest=False)
    assert read_manifest(store) == first
    assert read_head(store)["digest"] == first.digest
    assert kept_manifest(store, second.digest) == second
    write_manifest(store, second)
    assert (read_manifest(store), kept_manifest(store, first.digest)) == (second, first)


def test_what_a_method_reads_is_named_by_that_alone(store: Store) -> None:
    small = make_manifest(finished(store, "a", "b"), store, FACTS)
    bigger = Manifest.of(
        FACTS, {**small.stages, "other": small.stages["mask"]}, {**small.counts, "other": {}}, small.parts, small.schema_version
    )
    wanted = ["ingest", "mask"]
    assert small.digest != bigger.digest
    assert small.only(wanted) == bigger.only(wanted), "a later build of more stages is the same to it"
    kept = small.only(wanted)
    assert set(kept.stages) == set(kept.counts) == set(wanted)
    assert list(kept.files("rewrite")) == []
    assert kept.files("ingest").__next__() == next(small.files("ingest"))
    assert small.only(["nothing"]).stages == {}


def test_digests_are_those_of_the_shards_by_part_and_view(store: Store) -> None:
    manifest = make_manifest(finished(store, "a", "b"), store, FACTS)
    digests = manifest.digests(["mask", "ingest"])
    assert list(digests) == ["ingest", "mask"]
    assert [len(views) for views in digests["mask"]] == [2, 2]
    assert all(file.endswith(f".{digests['ingest'][number][0]}.parquet") for number, file in enumerate(manifest.files("ingest")))
    assert manifest.digests(["none"]) == {"none": [[], []]}


@pytest.mark.parametrize("how_much", [4, 12, 32])
def test_a_manifest_is_found_by_how_its_digest_begins(store: Store, how_much: int) -> None:
    manifest = make_manifest(finished(store, "a"), store, FACTS)
    write_manifest(store, manifest)
    assert find_manifest(store, manifest.digest[:how_much]) == manifest


@pytest.mark.parametrize(
    ("begin", "said"), [("f", "2 manifests begin with f"), ("a", "no manifests begin with a"), ("", "no manifests")]
)
def test_none_or_several_are_said_with_those_that_are_there(store: Store, begin: str, said: str) -> None:
    for name in ("f1", "f2"):
        store.write_json(f"manifests/{name}.json", {})
    with pytest.raises(KidpipeError, match=said) as caught:
        find_manifest(store, begin)
    assert "f1, f2" in caught.value.fix
    with pytest.raises(KidpipeError, match="no manifests") as caught:
        find_manifest(Store(store.root / "empty"), "f")
    assert "there: none" in caught.value.fix


@pytest.mark.parametrize(
    "text", ["{}", '{"schema_version": 1, "stages": 3}', "[]", "3", '{"schema_version": "x"}', '{"stages": []}']
)
def test_json_that_is_no_manifest_is_said_and_named(store: Store, text: str) -> None:
    store.root.mkdir(parents=True)
    (store.root / "manifest.json").write_text(text)
    with pytest.raises(KidpipeError, match="not a manifest") as caught:
        read_manifest(store)
    assert caught.value.where == str(store.root / "manifest.json")


@pytest.mark.parametrize("text", ["[]", "3", '{"schema_version": "x"}', '"\\u0000"'])
def test_a_head_that_is_none_is_said(store: Store, text: str) -> None:
    store.root.mkdir(parents=True)
    (store.root / "head.json").write_text(text)
    with pytest.raises(KidpipeError, match="not a manifest"):
        read_head(store)


def test_a_newer_folder_is_refused_whatever_of_it_is_known(store: Store) -> None:
    newer = {"schema_version": MANIFEST_VERSION + 1}
    for name, read in (("head.json", read_head), ("manifest.json", read_head), ("manifest.json", read_manifest)):
        store.write_json(name, newer)
        with pytest.raises(KidpipeError, match="schema version") as caught:
            read(store)
        assert "upgrade" in caught.value.fix
        (store.root / name).unlink()
    store.write_json("manifests/abc.json", newer)
    with pytest.raises(KidpipeError, match="schema version"):
        find_manifest(store, "a")


def test_figures_are_shares_of_what_each_stage_counted_and_absent_where_it_did_not_run() -> None:
    counts = {
        "rewrite": {"out": 8, "changed_rows": 4, "parse": 6, "rewritten": 5, "masked": 20},
        "outcome": {"out": 8, "execute": 2, "same_result": 1},
        "verify": {"proposed": 40, "accepted": 10},
        "score": {"positions": 30, "stored_ids": 90},
    }
    manifest = Manifest.of(FACTS, {}, counts, ())
    assert rates(manifest) == {
        "changed_rows": 0.5,
        "parse": 0.75,
        "execute": 0.25,
        "same_result": 0.125,
        "rewrite_rate": 0.25,
        "accepted": 0.25,
        "stored_ids": 3.0,
    }
    assert rates(Manifest.of(FACTS, {}, {}, ())) == {}
    nothing = {name: dict.fromkeys(counted, 0) for name, counted in counts.items()}
    assert set(rates(Manifest.of(FACTS, {}, nothing, ())).values()) == {0.0}
