"""Propose and verify: a student's tokens that the teacher accepts, as plain forward passes of both have it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as fewer
from hypothesis import strategies as st

from kidcore.config.stage_settings import PredictSettings
from kidcore.errors import KidpipeError
from kidcore.method.filling import fill, verify
from kidcore.store.arrow import lists
from pipeline.context import open_context
from tests.conftest import configure
from tests.pipeline.running import files, made, run_build, store_of
from tests.pipeline.test_change_matrix import other_model
from tests.pipeline.test_predict_and_score import dense, shard_of, top_k


@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 6),
    propose=st.sampled_from(["argmax", "argmax_wrong", "sample"]),
    gold=st.integers(0, 9),
)
@fewer(max_examples=50, deadline=None)
def test_a_proposal_stays_where_it_is_among_the_best_and_else_the_teachers_own_comes(
    seed: int, k: int, propose: str, gold: int
) -> None:
    rng = np.random.default_rng(seed)
    holes, _ = top_k(rng, rows=5, vocab=10, k=8)
    golds, proposed = np.full(5, gold, np.int32), rng.integers(0, 10, 5).astype(np.int32)
    settings = PredictSettings(fill="verify", propose=propose)  # type: ignore[arg-type]
    filled, accepted = verify(settings, k, proposed, holes, golds, np.random.default_rng(3))
    own = fill(PredictSettings(fill=propose), holes, golds, np.random.default_rng(3))  # type: ignore[arg-type]
    for hole in range(5):
        is_kept = proposed[hole] in holes.ids[hole].tolist()[:k]
        assert accepted[hole] == is_kept
        assert filled[hole] == (proposed[hole] if is_kept else own[hole])


def test_a_build_keeps_what_plain_passes_of_student_and_teacher_say(
    settings: dict[str, object], tiny_model: Path, tmp_path: Path
) -> None:
    student = other_model(tiny_model, tmp_path / "student")
    few = {"data.limit": 6, "mask.views": 1, "mask.ratio": 0.4, "outcome.execute": False, "verify.top_k": 40}
    config = configure(settings | few, predict__fill="verify", train__student=str(student), predict__propose="argmax_wrong")
    result = run_build(config)
    manifest, store = result.manifest, store_of(config)
    ingest, predict, verified, score = (
        store.read(shard_of(files(manifest, stage)[0])) for stage in ("ingest", "predict", "verify", "score")
    )
    kept = []
    for row, masked in enumerate(lists(verified, "masked")):
        prompt, gold = lists(ingest, "prompt_ids")[row], lists(ingest, "gold_ids")[row]
        blank, expected = gold.copy(), gold.copy()
        blank[masked] = manifest.facts.mask_id
        proposals = gold.copy()
        for hole, logprobs in zip(masked, dense(student, prompt, blank)[masked], strict=True):
            proposals[hole] = _ranked(logprobs, gold[hole])[0]
        assert lists(predict, "filled_ids")[row].tolist() == proposals[masked].tolist()
        for hole, logprobs in zip(masked, dense(tiny_model, prompt, proposals)[masked], strict=True):
            kept.append(proposals[hole] in _ranked(logprobs)[:40])
            expected[hole] = proposals[hole] if kept[-1] else _ranked(logprobs, gold[hole])[0]
        assert lists(score, "imperfect_ids")[row].tolist() == expected.tolist()
    assert np.concatenate(lists(verified, "accepted")).tolist() == kept
    assert 0 < sum(kept) < len(kept)
    assert manifest.counts["verify"]["accepted"] == sum(kept)
    # Another k asks the teacher again and leaves the student's proposals alone.
    again = made(
        run_build(
            configure(
                settings | few | {"verify.top_k": 3},
                predict__fill="verify",
                train__student=str(student),
                predict__propose="argmax_wrong",
            )
        )
    )
    assert again == {"verify": 1, "rewrite": 1, "score": 1}


def _ranked(logprobs: np.ndarray, gold: int = -1) -> list[int]:
    """Tokens that may fill a hole, the likeliest first."""
    return [int(token) for token in np.argsort(-logprobs, kind="stable") if token > 3 and token != gold]


def test_a_student_is_needed_and_named_by_the_run_where_the_stage_names_none(
    settings: dict[str, object],
) -> None:
    config = configure(settings, predict__fill="verify", train__student="")
    with pytest.raises(KidpipeError, match="no checkpoint is named") as caught:
        open_context(config)
    assert "train.student" in caught.value.fix
