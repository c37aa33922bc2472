"""After a full build: what early builds and gc leave, which runs are known again, and whose shards are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kidcore.store.manifest import read_manifest
from kidcore.store.stages import MODEL_STAGES
from kidcore.store.store import Store
from tests.conftest import configure
from tests.kidpipe.commands.running import Cli
from tests.pipeline.running import run_build
from tests.pipeline.test_change_matrix import other_model

SMALL: dict[str, object] = {
    "data.limit": 20,
    "ingest.shard_rows": 10,
    "mask.views": 1,
    "train.max_steps": 1,
    "train.batch_size": 4,
    "train.holdout": 0.2,
}
TRAIN = ("train", "--json", "--method")


@pytest.fixture(scope="module")
def built(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a full build, teacher's answers included, with a data set and a teacher of its own."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(world, folder / "data")
    shutil.copytree(tiny_model, folder / "teacher")
    settings: dict[str, object] = SMALL | {
        "data.path": str(folder / "data"),
        "teacher.model": str(folder / "teacher"),
        "train.student": str(tiny_model),
        "engine.backend": "transformers",
        "score.top_k": 8,
        "generate.max_new_tokens": 8,
        "store.path": str(folder / "artifacts"),
    }
    for until in ("score", "generate"):
        run_build(configure(settings), until)
    return settings


@pytest.fixture
def full(cli: Cli, built: dict[str, object], tmp_path: Path) -> Cli:
    """The command line on a copy of the built store, of its data and of its teacher."""
    cli.settings.clear()
    cli.settings.update(built)
    # The names by which the store knows its teacher go with it: the copy lies elsewhere.
    shutil.copytree(str(built["store.path"]), tmp_path / "artifacts")
    cli.settings["store.path"] = "artifacts"
    for name, folder in (("data.path", "data"), ("teacher.model", "teacher")):
        shutil.copytree(str(built[name]), tmp_path / folder)
        cli.settings[name] = f"./{folder}"
    names = Store(tmp_path / "artifacts")
    names.write_json("models.json", {key: ["./teacher"] for key in names.read_json("models.json")})
    return cli


def shards(folder: Path) -> set[str]:
    return {str(path) for stage in MODEL_STAGES for path in (folder / "artifacts" / stage).glob("*.parquet")}


def run_of(cli: Cli, method: str, *more: str, **changes: object) -> dict[str, Any]:
    done = cli(*TRAIN, method, *more, **changes)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.mark.parametrize("until", ["ingest", "predict", "generate"])
@pytest.mark.parametrize("names_teacher", [True, False])
def test_an_early_build_takes_nothing_from_the_manifest(full: Cli, tmp_path: Path, until: str, names_teacher: bool) -> None:
    before, whole = shards(tmp_path), read_manifest(Store(tmp_path / "artifacts"))
    if not names_teacher:
        if until != "ingest":
            pytest.skip("a build that needs the teacher names it")
        full.settings.pop("teacher.model")
    assert full("build-imperfect", "--until", until).code == 0
    assert read_manifest(Store(tmp_path / "artifacts")) == whole
    assert full("gc", "--delete").code == 0
    assert shards(tmp_path) == before
    run_of(full, "kid")


def test_an_early_build_needs_no_teacher_that_has_worked_here(full: Cli, tmp_path: Path) -> None:
    whole = read_manifest(Store(tmp_path / "artifacts"))
    (tmp_path / "teacher").rename(tmp_path / "away")
    assert full("build-imperfect", "--until", "ingest").code == 0
    assert read_manifest(Store(tmp_path / "artifacts")) == whole
    assert "not found" in full("build-imperfect", "--until", "ingest", teacher__model="./another").err


def test_gc_keeps_what_the_configuration_reaches_and_says_what_the_rest_cost(full: Cli, tmp_path: Path) -> None:
    """A manifest of another ratio is the latest: the scores of the first are named by none."""
    first = shards(tmp_path)
    assert full("build-imperfect", mask__ratio=0.6).code == 0
    report = json.loads(full("gc", "--json").out)
    assert {group["what"].partition(":")[0] for group in report["groups"]} == {"manifests"}, "the configuration reaches the first"
    assert report["teacher_seconds"] == 0
    lost = json.loads(full("gc", "--json", mask__ratio=0.6).out)
    by_stage = {group["what"].partition(":")[0]: group for group in lost["groups"]}
    assert by_stage["score"]["teacher_seconds"] > 0
    assert by_stage["mask"]["teacher_seconds"] == 0
    assert lost["teacher_seconds"] == pytest.approx(sum(group["teacher_seconds"] for group in lost["groups"]), abs=0.002)
    assert "of teacher time to make again" in full("gc", mask__ratio=0.6).out
    assert full("gc", "--delete").code == 0
    assert first <= shards(tmp_path)
    # What the scores are made from stays too: without it they would not be found.
    assert full("plan", "--check").code == 0


def test_gc_keeps_all_where_the_configuration_does_not_tell(full: Cli, tmp_path: Path) -> None:
    assert full("build-imperfect", mask__ratio=0.6).code == 0
    before = shards(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    done = full("gc", "--delete")
    assert "every shard is kept" in done.out
    assert "data" in done.out
    assert shards(tmp_path) == before


def test_gc_keeps_what_a_comparison_will_read_and_leaves_foreign_files(full: Cli, tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    assert full("build-imperfect", mask__ratio=0.6).code == 0
    manifest = read_manifest(store)
    assert manifest is not None
    assert full("build-imperfect").code == 0
    store.write_json("compare/grid/manifests.json", [manifest.digest])
    foreign = tmp_path / "artifacts" / "score" / "mine.parquet"
    foreign.write_text("not ours")
    before = shards(tmp_path)
    assert full("gc", "--delete").code == 0
    assert shards(tmp_path) == before
    assert full("status").code == 0
    (tmp_path / "artifacts" / "compare" / "grid" / "manifests.json").unlink()
    assert full("gc", "--delete").code == 0
    assert len(before) - len(shards(tmp_path)) == 2 * len(manifest.parts), "predict and score"
    assert foreign.exists()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sft", {"mask__ratio": 0.5}),
        ("sft", {"mask__views": 2}),
        ("fkd", {"mask__ratio": 0.5}),
        ("rkd", {"outcome__execute": False}),
        ("kid", {"outcome__execute": False}),
    ],
)
def test_a_run_outlives_what_it_does_not_read(full: Cli, method: str, changes: dict[str, object]) -> None:
    first = run_of(full, method)
    run_of(full, method, "--name", "mine")
    assert full("build-imperfect", **changes).code == 0
    again = run_of(full, method, **changes)
    assert (again["run"], again["was_finished"]) == (first["run"], True)
    assert run_of(full, method, "--name", "mine", **changes)["was_finished"]
    # And not what it does read.
    other = run_of(full, method, train__learning_rate=0.5)
    assert other["run"] != first["run"]
    refused = full(*TRAIN, method, "--name", "mine", train__learning_rate=0.5)
    assert (refused.code, "train.learning_rate" in refused.err) == (1, True)
    assert run_of(full, method, "--name", "mine")["was_finished"], "a refused run leaves the folder as it was"


def test_a_run_of_the_first_version_is_known_again(full: Cli, tmp_path: Path) -> None:
    """Its identity named the whole manifest."""
    store, first = Store(tmp_path / "artifacts"), run_of(full, "fkd", train__kd_weight=0.5)
    folder = Path(first["run"])
    old = folder.with_name("fkd-01234567")
    folder.rename(old)
    identity = store.read_json(f"runs/{old.name}/run.json")
    digest = store.read_json(f"runs/{old.name}/manifest.json")["digest"]
    del identity["shards"]
    identity |= {"schema_version": 2, "manifest": digest}
    identity["settings"]["views_per_step"] = 3  # which fkd does not look at
    store.write_json(f"runs/{old.name}/run.json", identity)
    again = run_of(full, "fkd", train__kd_weight=0.5)
    assert (Path(again["run"]).name, again["was_finished"]) == (old.name, True)
    other = run_of(full, "fkd", train__kd_weight=0.25)
    assert Path(other["run"]).name != old.name


def test_another_teacher_is_refused(full: Cli, tmp_path: Path) -> None:
    other = other_model(tmp_path / "teacher", tmp_path / "other")
    for method in ("kid", "fkd", "seqkd"):
        done = full(*TRAIN, method, teacher__model="./other")
        assert done.code == 1
        assert "made by another teacher: ./teacher (local:" in done.err
        assert "teacher.model = ./other" in done.err
        assert "--manifest" in done.err
        assert "Traceback" not in done.err
    assert run_of(full, "sft", teacher__model="./other"), "which reads nothing of a teacher"
    manifest = read_manifest(Store(tmp_path / "artifacts"))
    assert manifest is not None
    first = run_of(full, "kid", "--manifest", manifest.digest[:12], teacher__model="./other")
    assert first["teacher_on_gold"], "asked for by name"
    online = run_of(full, "gkd", teacher__model="./other", train__rollout_tokens=4)
    assert online["teacher_on_gold"] is None, "it made no shard"
    # Other weights behind the same path.
    shutil.rmtree(tmp_path / "teacher")
    other.rename(tmp_path / "teacher")
    assert "has other weights" in full(*TRAIN, "kid").err
    assert full("build-imperfect").code == 0
    second = run_of(full, "kid")
    # The paper's form reads no gold scores: they are those of the build that the run was given all the same.
    one, other_one = (run_of(full, "kid", *more, train__gold_share=0) for more in (("--manifest", manifest.digest[:12]), ()))
    known = [result["teacher_on_gold"] for result in (one, first, other_one, second)]
    assert known[0] == known[1] != known[2] == known[3]


def test_a_teacher_that_went_away_is_a_note_and_another_name_is_refused(full: Cli, tmp_path: Path) -> None:
    (tmp_path / "teacher").rename(tmp_path / "away")
    done = full(*TRAIN, "kid")
    assert done.code == 0, done.err
    assert "not there any more" in done.err
    assert "made by another teacher" in full(*TRAIN, "kid", teacher__model="some/other").err


def test_another_precision_tokenizer_or_predictor_is_refused(full: Cli, tmp_path: Path) -> None:
    assert "another precision: auto, not bfloat16" in full(*TRAIN, "kid", teacher__dtype="bfloat16").err
    other_model(tmp_path / "teacher", tmp_path / "filler")
    changes: dict[str, object] = {"predict__predictor": "student", "predict__student": "./filler"}
    assert "another predictor" in full(*TRAIN, "kid", **changes).err
    assert run_of(full, "fkd", **changes), "which reads no predictions"
    path = tmp_path / "teacher" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-3]
    path.write_text(json.dumps(tokenizer))
    assert "another tokenizer" in full(*TRAIN, "kid").err


def test_other_data_is_refused(full: Cli, tmp_path: Path) -> None:
    refused = full(*TRAIN, "sft", data__limit=21)
    assert refused.code == 1
    assert "other examples than the shards: 1 new, 0 gone" in refused.err
    assert "data.path = ./data" in refused.err
    file = tmp_path / "data" / "train_spider.json"
    rows = json.loads(file.read_text())
    rows[3]["question"] += " Really?"
    file.write_text(json.dumps(rows))
    assert "1 new, 1 gone" in full(*TRAIN, "kid").err
    shutil.rmtree(tmp_path / "data")
    assert run_of(full, "kid"), "shards are complete without the data set"


def test_a_teacher_for_a_method_that_has_no_use_for_one_is_refused(full: Cli) -> None:
    done = full(*TRAIN, "sft", "--teacher", "./teacher")
    assert done.code == 1
    assert "method sft neither loads a teacher nor reads what one made" in done.err
    assert full(*TRAIN, "fkd", "--teacher", "./teacher").code == 0


def test_fewer_ids_a_position_are_cut_and_every_command_says_so(full: Cli, tmp_path: Path) -> None:
    said = full("plan", "--why", score__top_k=4).out
    assert "score.top_k 8 -> 4; 1 cut from shards with more ids, without the teacher" in " ".join(said.split())
    assert "an engine's start" not in said
    before = shards(tmp_path)
    assert full("build-imperfect", "--until", "score,generate", score__top_k=4).code == 0
    new = sorted(shards(tmp_path) - before)
    assert sorted(Path(file).parent.name for file in new) == ["gold_score", "score"]
    assert "cut from    gold_score/" in full("inspect", "--shard", new[0]).out
    made = json.loads(full("status", "--json", score__top_k=4).out)["made"]
    assert made["gold_score"] == made["score"] != []
