"""A student's own answers: those of plain decoding, whatever they are; scored as any engine does; kept with what they do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kidcore.errors import KidpipeError
from kidcore.store.manifest import read_manifest
from pipeline.context import open_context
from pipeline.stages import stages
from tests.conftest import configure
from tests.pipeline.running import store_of
from tests.pipeline.test_change_matrix import other_model
from tests.pipeline.test_predict_and_score import shard_of


@pytest.fixture
def small(settings: dict[str, object], tiny_model: Path, tmp_path: Path) -> dict[str, object]:
    """A teacher and a student with other weights."""
    student = other_model(tiny_model, tmp_path / "student")
    few = {"data.limit": 12, "ingest.shard_rows": 5, "rollout.max_new_tokens": 9, "rollout.temperature": 0.0}
    return settings | few | {"train.student": str(student)}


def run_rollouts(config: Any, until: str = "rollout_score") -> dict[str, int]:
    """Build; shards made by stage."""
    from pipeline.build import build

    context = open_context(config, need_start=True)
    try:
        return dict(build(context, store_of(config), until=until, progress=False).ran)
    finally:
        context.close()


def rows(config: Any, stage: str, view: int = 0) -> dict[str, dict[str, Any]]:
    store = store_of(config)
    manifest = read_manifest(store)
    assert manifest is not None
    tables = [store.read(shard_of(part.files[stage][view if len(part.files[stage]) > view else 0])) for part in manifest.parts]
    return {row["example_id"]: row for table in tables for row in table.to_pylist() if not row.get("reason")}


def test_answers_are_the_students_greedy_ones_and_the_scores_the_teachers(small: dict[str, object], tiny_model: Path) -> None:
    config = configure(small)
    run_rollouts(config)
    student = AutoModelForCausalLM.from_pretrained(str(small["train.student"]), dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ingest, answers, scores = (rows(config, stage) for stage in ("ingest", "rollout", "rollout_score"))
    assert ingest.keys() == answers.keys() == scores.keys()
    eos = teacher.config.eos_token_id
    for example_id, row in answers.items():
        ids = list(ingest[example_id]["prompt_ids"])
        expected: list[int] = []
        with torch.no_grad():
            while len(expected) < 9:
                token = int(student(torch.tensor([ids + expected])).logits[0, -1].argmax())
                if token in (eos, *range(4)):
                    break
                expected.append(token)
            assert row["imperfect_ids"] == expected
            assert row["ends"] == (len(expected) < 9)
            logits = teacher(torch.tensor([ids + expected + [eos]])).logits[0, len(ids) - 1 : -1]
        actual = torch.log_softmax(logits, -1)[range(len(expected) + 1), [*expected, eos]]
        assert scores[example_id]["imperfect_ids"] == expected
        np.testing.assert_allclose(scores[example_id]["actual_logprob"], actual.numpy(), atol=2e-4)
        assert len(scores[example_id]["topk_count"]) == len(expected) + 1


def test_a_student_that_takes_less_than_the_teacher_is_asked_what_fits(small: dict[str, object]) -> None:
    """The longest prompt leaves it no room, and another one less than it may write."""
    student = Path(str(small["train.student"]))
    config = configure(small)
    run_rollouts(config, until="rollout")
    whole, lengths = rows(config, "rollout"), {name: len(row["prompt_ids"]) for name, row in rows(config, "ingest").items()}
    longest = max(lengths.values())
    settings = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": longest}))
    run_rollouts(config)
    for name, row in rows(config, "rollout").items():
        room = longest - lengths[name]
        assert row["imperfect_ids"] == whole[name]["imperfect_ids"][: max(0, room - 1)]
        assert row["ends"] == (whole[name]["ends"] and len(whole[name]["imperfect_ids"]) < room)
    assert min(longest - length for length in lengths.values()) == 0 < max(longest - length for length in lengths.values())


def test_kind_and_result_of_each_answer_are_stored_without_the_teacher(small: dict[str, object]) -> None:
    config = configure(small)
    assert run_rollouts(config, "rollout") == {"ingest": 3, "rollout": 3, "rollout_outcome": 3}
    outcome = rows(config, "rollout_outcome")
    assert outcome.keys() == rows(config, "rollout").keys()
    assert not any(row["same_result"] and not row["executes"] for row in outcome.values())


@pytest.mark.slow(seconds=8)
def test_another_start_seed_or_sample_runs_just_what_it_touches(small: dict[str, object], tiny_model: Path) -> None:
    sampled = small | {"rollout.temperature": 1.0}
    run_rollouts(configure(sampled))
    assert not any(run_rollouts(configure(sampled)).values())
    assert run_rollouts(configure(sampled, rollout__samples=2)) == {"rollout": 3, "rollout_outcome": 3, "rollout_score": 3}
    first, second = (rows(configure(sampled), "rollout", view) for view in (0, 1))
    assert any(first[name]["imperfect_ids"] != second[name]["imperfect_ids"] for name in first)
    again = run_rollouts(configure(sampled, rollout__seed=1))
    assert again["rollout"] == 3
    assert "gold_score" not in again
    assert run_rollouts(configure(sampled, rollout__model=str(tiny_model)))["rollout"] == 3


def test_a_start_that_is_missing_is_named_and_greedy_doubles_are_refused(small: dict[str, object]) -> None:
    with pytest.raises(KidpipeError, match="no student is named"):
        open_context(configure(small | {"train.student": "", "rollout.model": ""}), need_start=True)
    context = open_context(configure(small, rollout__samples=2), need_start=True)
    try:
        with pytest.raises(KidpipeError, match="would all be the same"):
            stages(context, "rollout_score")
    finally:
        context.close()
