"""What gc leaves: a model's work that a build would use, however far away that build is, and all that anything refers to."""

import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kidcore import locks
from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid
from kidcore.store.manifest import read_manifest
from kidcore.store.plan import make_plan
from kidcore.store.store import Store
from kidpipe.commands.gc import gc
from kidpipe.commands.session import open_session
from kidpipe.commands.store import pin, verify
from kidpipe.commands.train import train
from pipeline.context import open_context
from pipeline.stages import stages
from tests.conftest import configure
from tests.pipeline.running import made, run_build, store_of

MODELS = ("gold_score", "predict", "score")


@pytest.fixture(scope="module")
def built(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a finished build: 3 parts, 1 view."""
    settings: dict[str, object] = {
        "data.path": str(world),
        "teacher.model": str(tiny_model),
        "train.student": str(tiny_model),
        "engine.backend": "transformers",
        "ingest.shard_rows": 20,
        "mask.views": 1,
        "score.top_k": 16,
        "store.path": str(tmp_path_factory.mktemp("gc") / "artifacts"),
    }
    run_build(configure(settings))
    return settings


@pytest.fixture
def copy(built: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """The finished build in a store of its own."""
    shutil.copytree(str(built["store.path"]), tmp_path / "artifacts")
    return built | {"store.path": str(tmp_path / "artifacts")}


def clean(settings: dict[str, object], **changes: object) -> None:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    gc(open_session(None, [], settings | named, use_file=False), delete=True, as_json=False)


def shards(settings: dict[str, object], *names: str) -> set[str]:
    root = Path(str(settings["store.path"]))
    return {str(path.relative_to(root)) for name in names for path in (root / name).glob("*.parquet")}


def forget(settings: dict[str, object]) -> None:
    """As a build leaves its store that was stopped before its end."""
    root = Path(str(settings["store.path"]))
    for path in (root / "manifest.json", root / "head.json", *root.glob("manifests/*")):
        path.unlink()


def derived(settings: dict[str, object], stage: str, **changes: object) -> int:
    """How many shards of a stage would be derived, without its model."""
    config = configure(settings, **changes)
    context, store = open_context(config), store_of(config)
    try:
        plans = make_plan(Grid(stages(context), context.parts, store), store, read_manifest(store))
    finally:
        context.close()
    return next(plan.cut for plan in plans if plan.stage == stage)


def test_shards_with_more_ids_stay_until_all_is_cut_from_them(copy: dict[str, object]) -> None:
    run_build(configure(copy, score__top_k=8), until="gold_score")
    clean(copy, score__top_k=8)
    assert derived(copy, "score", score__top_k=8) == 3
    run_build(configure(copy, score__top_k=8))
    clean(copy, score__top_k=8)
    assert len(shards(copy, "gold_score", "score")) == 6, "and then they go"


def test_the_narrowest_of_the_wider_ones_is_enough(copy: dict[str, object]) -> None:
    before = shards(copy, "gold_score", "score")
    run_build(configure(copy, score__top_k=12))
    run_build(configure(copy, score__top_k=8), until="gold_score")
    clean(copy, score__top_k=8)
    assert not before & shards(copy, "gold_score", "score")
    assert derived(copy, "score", score__top_k=8) == 3


def test_predictions_stay_that_holes_will_be_filled_from(copy: dict[str, object]) -> None:
    run_build(configure(copy, predict__fill="sample"), until="mask")
    clean(copy, predict__fill="sample")
    assert derived(copy, "predict", predict__fill="sample") == 3


def test_what_a_stopped_build_made_stays_though_its_first_stages_run_again(
    copy: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    forget(copy)
    min(Path(str(copy["store.path"])).glob("score/*.parquet")).unlink()
    clean(copy, ingest__max_steps=50_000_000)
    assert "8 shards of a model stay" in capsys.readouterr().out
    assert made(run_build(configure(copy, ingest__max_steps=50_000_000))) == {
        "ingest": 3, "mask": 3, "rewrite": 3, "outcome": 3, "score": 1,
    }  # fmt: skip


def test_wider_scores_behind_what_runs_again_stay_too(copy: dict[str, object]) -> None:
    forget(copy)
    changed = {"ingest__max_steps": 50_000_000, "score__top_k": 8}
    clean(copy, **changed)
    assert made(run_build(configure(copy, **changed), until="gold_score")) == {"ingest": 3, "gold_score": 3}
    forget(copy)
    clean(copy, **changed)
    assert made(run_build(configure(copy, **changed), until="rewrite")) == {"mask": 3, "rewrite": 3}
    assert derived(copy, "score", **changed) == 3


def test_one_damaged_mask_costs_no_work_of_the_teacher(copy: dict[str, object]) -> None:
    run_build(configure(copy, mask__ratio=0.4))
    of_now = {path.split(".")[0] for path in shards(copy, "mask")}
    run_build(configure(copy))
    manifest = read_manifest(Store(Path(str(copy["store.path"]))))
    assert manifest is not None
    of_now -= {file.split(".")[0] for file in manifest.files("mask")}
    victim = next(file for file in shards(copy, "mask") if file.split(".")[0] in of_now)
    (Path(str(copy["store.path"])) / victim).write_bytes(b"x")
    with pytest.raises(KidpipeError, match="1 broken shards were set aside"):
        verify(open_session(None, [], copy, use_file=False), deep=True, as_json=False)
    clean(copy, mask__ratio=0.4)
    assert not made(run_build(configure(copy, mask__ratio=0.4))).keys() & set(MODELS)


def test_what_other_inputs_gave_goes_while_something_is_to_be_made(copy: dict[str, object]) -> None:
    before = shards(copy, *MODELS)
    run_build(configure(copy, ingest__system="Be exact."))
    after = shards(copy, *MODELS) - before
    clean(copy, ingest__system="Be exact.", mask__seed=9)
    assert shards(copy, *MODELS) == after


@pytest.mark.parametrize("student", ["", "Qwen/Qwen2.5-Coder-0.5B"])
def test_without_a_students_answers_it_does_not_matter_who_gives_them(copy: dict[str, object], student: str) -> None:
    before = shards(copy, "predict", "score")
    run_build(configure(copy, mask__ratio=0.4))
    clean(copy, mask__ratio=0.4, train__student=student)
    assert not before & shards(copy, "predict", "score")


def test_a_reference_to_what_is_not_kept_deletes_nothing(copy: dict[str, object]) -> None:
    root = Path(str(copy["store.path"]))
    pin(open_session(None, [], copy, use_file=False), as_json=False)
    [kept] = root.glob("manifests/*.json")
    text = kept.read_text()
    kept.unlink()
    clean(copy)  # the latest manifest is the one that is pinned, and nothing is to go
    run_build(configure(copy, mask__ratio=0.4))
    before = shards(copy, "mask", *MODELS)
    with pytest.raises(KidpipeError, match="is not kept, so nothing is deleted") as caught:
        clean(copy, mask__ratio=0.4)
    assert caught.value.where == str(root / "pins" / kept.name)
    kept.write_text(text)
    clean(copy, mask__ratio=0.4)
    assert shards(copy, "mask", *MODELS) == before


def test_a_run_that_starts_while_gc_is_at_work_keeps_its_manifest(
    copy: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write_json

    def write_behind_gc(store: Store, name: str, value: Any) -> Path:
        if name.startswith("manifests/") or name.endswith("/manifest.json"):
            clean(copy)
        return write(store, name, value)

    settings = copy | {"train.max_steps": 1, "train.batch_size": 4, "train.method": "fkd"}
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_json", write_behind_gc)
        train(open_session(None, [], settings, use_file=False), name="mine", as_json=True)
    read = shards(copy, "gold_score")
    run_build(configure(copy, ingest__system="Be exact."))
    clean(copy, ingest__system="Be exact.")
    assert read <= shards(copy, "gold_score")


def test_what_could_go_is_told_of_a_store_that_nobody_can_write(copy: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only mount. Deleting is refused as ever, and a build that goes on is not looked into."""
    session = open_session(None, [], copy, use_file=False)
    with session.store.lock(), pytest.raises(KidpipeError, match="another build holds this store"):
        gc(session, delete=False, as_json=False)

    def refuse(*_given: object) -> NoReturn:
        raise KidpipeError("nothing can be written here")

    monkeypatch.setattr(locks, "hold", refuse)
    monkeypatch.setattr(os, "access", lambda *_given: False)
    before = {path: path.stat().st_mtime_ns for path in session.store.root.rglob("*")}
    gc(session, delete=False, as_json=False)
    assert {path: path.stat().st_mtime_ns for path in session.store.root.rglob("*")} == before
    with pytest.raises(KidpipeError, match="nothing can be written here"):
        gc(session, delete=True, as_json=False)
