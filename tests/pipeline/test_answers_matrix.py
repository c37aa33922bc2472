"""Which settings give seqkd and opd other runs: each reads stored answers (of the teacher, of the start) made on request."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config_load import sections
from kidcore.config.settings import SettingKind
from kidpipe.commands.session import open_session
from kidpipe.commands.train import prepare_run
from pipeline.build import build
from pipeline.context import open_context
from tests.conftest import configure
from tests.pipeline.running import made, store_of

pytestmark = pytest.mark.slow(seconds=2)

BOTH = {"seqkd", "opd"}
# Another value, the stages that run again, and the methods whose runs are other ones then.
CHANGES: dict[str, tuple[Any, set[str], set[str]]] = {
    "generate.max_new_tokens": (5, {"generate"}, {"seqkd"}),
    "generate.temperature": (1.0, {"generate"}, {"seqkd"}),
    "generate.seed": (1, {"generate"}, set()),  # greedy answers draw nothing: the same bytes
    "generate.samples": (2, {"generate"}, {"seqkd"}),
    "rollout.dtype": ("bfloat16", {"rollout", "rollout_outcome", "rollout_score"}, {"opd"}),
    "rollout.max_new_tokens": (5, {"rollout", "rollout_outcome", "rollout_score"}, {"opd"}),
    "rollout.temperature": (0.5, {"rollout", "rollout_outcome", "rollout_score"}, {"opd"}),
    "rollout.seed": (1, {"rollout", "rollout_outcome", "rollout_score"}, {"opd"}),
    "rollout.samples": (2, {"rollout", "rollout_outcome", "rollout_score"}, {"opd"}),
    "ingest.system": (
        "Be exact.",
        {"ingest", "gold_score", "generate", "rollout", "rollout_outcome", "rollout_score"},
        BOTH,
    ),
    "teacher.dtype": ("bfloat16", {"gold_score", "generate", "rollout_score"}, {"opd"}),  # the same greedy answers here
    "score.top_k": (8, {"gold_score", "rollout_score"}, {"opd"}),
    "outcome.max_steps": (50_000_000, {"rollout_outcome"}, set()),
    "mask.ratio": (0.4, set(), set()),
    "mask.views": (3, set(), set()),
    "predict.temperature": (2.0, set(), set()),
}


@pytest.fixture(scope="module")
def built(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a store with the answers of both kinds, two parts of each."""
    settings: dict[str, object] = {
        "data.path": str(world),
        "data.limit": 8,
        "teacher.model": str(tiny_model),
        "train.student": str(tiny_model),
        "engine.backend": "transformers",
        "sandbox.workers": 1,
        "ingest.shard_rows": 4,
        "score.top_k": 16,
        "generate.max_new_tokens": 4,
        "rollout.max_new_tokens": 4,
        "store.path": str(tmp_path_factory.mktemp("answers") / "artifacts"),
    }
    ran = answer(settings)
    assert ran == {"ingest", "gold_score", "generate", "rollout", "rollout_outcome", "rollout_score"}
    return settings


def answer(settings: dict[str, object]) -> set[str]:
    """Have teacher and start answer what is not answered yet; the stages that ran."""
    config = configure(settings)
    context = open_context(config, need_start=True)
    try:
        return {
            name
            for until in ("generate", "rollout_score")
            for name in made(build(context, store_of(config), until=until, progress=False))
        }
    finally:
        context.close()


def run_names(settings: dict[str, object]) -> dict[str, str]:
    """What the run of each method is called; equal names are equal runs."""
    sessions = {method: open_session(None, [], settings | {"train.method": method}, use_file=False) for method in BOTH}
    return {method: prepare_run(session).name for method, session in sessions.items()}


def test_the_table_names_every_setting_of_stored_answers() -> None:
    kinds = (SettingKind.IDENTITY, SettingKind.INPUT)
    found = {
        f"{name}.{field}"
        for name in ("generate", "rollout")
        for field in sections()[name].model_fields
        if sections()[name].kind_of(field) in kinds
    }
    assert found - {"rollout.model"} <= CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_makes_other_runs_where_it_makes_other_answers(built: dict[str, object], tmp_path: Path, name: str) -> None:
    value, stages, retrained = CHANGES[name]
    shutil.copytree(str(built["store.path"]), tmp_path / "artifacts")
    copy = built | {"store.path": str(tmp_path / "artifacts")}
    before = run_names(copy)
    # One answer to a prompt may be greedy; several may not.
    several: dict[str, object] = {"generate.temperature": 1.0} if name == "generate.samples" else {}
    changed = copy | {name: value} | several
    assert answer(changed) == stages
    after = run_names(changed)
    assert {method for method in BOTH if after[method] != before[method]} == retrained
    assert answer(copy) == set(), "reverting costs nothing"
    assert run_names(copy) == before
