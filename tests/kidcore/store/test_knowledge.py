"""What a teacher thinks of gold, against the slow reading of its gold scores."""

import math

import pytest

from kidcore.method.knowledge import GoldKnowledge
from kidcore.store import knowledge
from kidcore.store.frames import read_frame
from kidcore.store.kept_knowledge import SUMMARY, read_knowledge
from kidcore.store.knowledge import teacher_knowledge
from kidcore.store.store import Store
from tests.conftest import configure
from tests.pipeline.running import made, run_build, store_of


def slowly(store: Store, manifest: object) -> tuple[int, float, int, int, float]:
    tokens, nll, first, answers, stop = 0, 0.0, 0, 0, 0.0
    for row in read_frame(store, manifest, "gold_score").iter_rows(named=True):  # type: ignore[arg-type]
        *inner, end = row["actual_logprob"]
        nll, stop = nll - sum(inner), stop - end
        tokens, answers, start = tokens + len(inner), answers + 1, 0
        for token, count in zip(row["gold_ids"], row["topk_count"][:-1], strict=True):
            first += count > 0 and row["topk_ids"][start] == token
            start += count
    return tokens, nll, first, answers, stop


def test_it_is_what_the_gold_scores_say_and_no_shard_is_opened_twice(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(settings, mask__views=1)
    store = store_of(config)
    before = run_build(config, until="gold_score")
    assert before.knowledge is not None
    expected = slowly(store, before.manifest)
    assert before.knowledge.sums() == pytest.approx(expected, rel=1e-9)
    assert (expected[0], expected[3]) == (before.knowledge.tokens, 60)
    assert read_knowledge(store, before.manifest.digest) == before.knowledge

    def never(*_: object) -> GoldKnowledge:
        raise AssertionError("a shard was opened again")

    monkeypatch.setattr(knowledge, "_look_at", never)
    again = run_build(config, until="gold_score")
    assert (made(again), again.knowledge) == ({}, before.knowledge)
    # Another manifest of the same gold scores.
    more = run_build(config, until="mask")
    assert more.manifest.digest != before.manifest.digest
    assert more.knowledge is not None
    assert more.knowledge.sums() == pytest.approx(before.knowledge.sums())


def test_what_is_kept_may_go_or_be_of_another_manifest(settings: dict[str, object]) -> None:
    config = configure(settings)
    store = store_of(config)
    result = run_build(config, until="gold_score")
    (store.root / SUMMARY).write_bytes(b"\x00{")
    assert read_knowledge(store, result.manifest.digest) is None
    (store.root / SUMMARY).unlink()
    (store.root / knowledge._SHARDS).write_text('{"x": 3, "y": ["a", 1, 2, 3, 4]}')
    assert read_knowledge(store, result.manifest.digest) is None
    assert teacher_knowledge(store, result.manifest) == result.knowledge
    assert run_build(config, until="ingest").knowledge == result.knowledge
    assert read_knowledge(store, "another") is None


def test_a_store_without_gold_scores_has_none(settings: dict[str, object]) -> None:
    assert run_build(configure(settings), until="ingest").knowledge is None
    assert math.isnan(GoldKnowledge().nll)
    assert GoldKnowledge.from_json(GoldKnowledge().as_json()) == GoldKnowledge()
