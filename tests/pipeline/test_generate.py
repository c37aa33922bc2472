"""The teacher's own answers: those of plain decoding, kept or set aside, and apart from every other stage."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kidcore.advance import unheard
from kidcore.config.settings import SettingKind
from kidcore.config.stage_settings import GenerateSettings
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.store.arrow import lists
from kidcore.store.graph import Grid, Task
from kidcore.store.manifest import read_manifest
from kidcore.store.plan import make_plan
from kidpipe.commands.restricted import restricted
from pipeline.context import open_context
from pipeline.generate_outcome import bind
from pipeline.stages import stages
from tests.conftest import configure
from tests.pipeline.running import files, made, run_build, store_of
from tests.pipeline.test_predict_and_score import shard_of

# The small teacher is untrained: drawn hot, it meets an end token in most answers of this length, and not in all.
SAMPLED: dict[str, object] = {"generate__temperature": 10.0, "generate__max_new_tokens": 200}


@pytest.fixture
def small(settings: dict[str, object]) -> dict[str, object]:
    return settings | {"data.limit": 12, "ingest.shard_rows": 5}


def answers(config: object) -> dict[str, tuple[list[int], str | None]]:
    """Answer and reason of each example, of the first sample."""
    store = store_of(config)  # type: ignore[arg-type]
    manifest = read_manifest(store)
    assert manifest is not None
    found = {}
    for part in manifest.parts:
        table = store.read(shard_of(part.files["generate"][0]))
        columns = (table.column("example_id").to_pylist(), lists(table, "generated_ids"), table.column("reason").to_pylist())
        found |= {example_id: (ids.tolist(), reason) for example_id, ids, reason in zip(*columns, strict=True)}
    return found


def test_answers_are_those_of_plain_greedy_decoding_and_one_cut_off_is_set_aside(
    small: dict[str, object], tiny_model: Path
) -> None:
    config = configure(small, generate__max_new_tokens=9)
    manifest = run_build(config, "generate").manifest
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    prompts = {
        example_id: ids
        for file in files(manifest, "ingest")
        for table in [store_of(config).read(shard_of(file))]
        for example_id, ids in zip(table.column("example_id").to_pylist(), lists(table, "prompt_ids"), strict=True)
    }
    for example_id, (answer, reason) in answers(config).items():
        ids = torch.tensor(prompts[example_id])[None].long()
        for _ in range(9):
            with torch.no_grad():
                best = network(ids).logits[0, -1].argmax()
            if best <= 3:
                break
            ids = torch.cat([ids, best[None, None]], dim=1)
        assert answer == ids[0, len(prompts[example_id]) :].tolist()
        assert reason == ("generation cut off: 9 tokens, generate.max_new_tokens is 9" if len(answer) == 9 else None)
    counts = manifest.counts["generate"]
    assert counts["in"] == 12 == counts["out"] + sum(counts.get("set_aside", {}).values())


@pytest.mark.slow
def test_drawn_answers_do_not_depend_on_the_layout_of_shards(small: dict[str, object], tmp_path: Path) -> None:
    config = configure(small, **SAMPLED)
    counts = run_build(config, "generate").manifest.counts["generate"]
    assert 0 < counts["out"] < 12 == counts["out"] + sum(counts["set_aside"].values())
    other = configure(small, ingest__shard_rows=12, store__path=str(tmp_path / "other"), engine__batch_tokens=600, **SAMPLED)
    run_build(other, "generate")
    assert answers(config) == answers(other)
    seeded = configure(small, generate__seed=1, **SAMPLED)
    run_build(seeded, "generate")
    assert answers(seeded) != answers(other)


def test_answers_and_scores_are_built_apart_and_named_together(small: dict[str, object]) -> None:
    config = configure(small, generate__max_new_tokens=4)
    scored = run_build(config)
    assert "generate" not in scored.manifest.stages
    answered = run_build(config, "generate")
    assert made(answered) == {"generate": 3}
    assert {"generate", "score", "outcome"} <= answered.manifest.stages.keys()
    kid, seqkd, gkd = (TrainSettings(method=method) for method in ("kid", "seqkd", "gkd"))
    assert restricted(answered.manifest, kid) == restricted(scored.manifest, kid), "a run on scores is not disturbed"
    again = run_build(config)
    assert made(again) == {}
    assert again.manifest == answered.manifest
    # Another mask makes other scores, and what seqkd reads stays what it was.
    other = run_build(configure(small, generate__max_new_tokens=4, mask__ratio=0.5, mask__views=1))
    assert restricted(other.manifest, seqkd) == restricted(answered.manifest, seqkd)
    assert restricted(other.manifest, gkd) == restricted(scored.manifest, gkd)
    assert restricted(other.manifest, kid) != restricted(scored.manifest, kid)


def test_which_answers_are_correct_is_found_on_request_and_by_executing_them(small: dict[str, object]) -> None:
    """The untrained teacher's answers are no SQL; those that are put in their place are gold, gold's twin, and another query."""
    config = configure(small, generate__max_new_tokens=4, ingest__shard_rows=20)
    assert made(run_build(config, "generate_outcome")) == {"ingest": 1, "generate": 1, "generate_outcome": 1}
    store, context = store_of(config), open_context(config)
    manifest = read_manifest(store)
    assert manifest is not None
    tables = {name: store.read(shard_of(files(manifest, name)[0])) for name in ("ingest", "generate")}
    rows = zip(*(tables["ingest"].column(name).to_pylist() for name in ("gold_sql", "reason")), strict=True)
    gold = [sql for sql, reason in rows if not reason]
    kinds = ("{} ", "SELECT 'no such value'", "SELECT FROM")
    texts = [kinds[row % 3].format(sql) for row, sql in enumerate(gold)]
    place = tables["generate"].schema.get_field_index("generated_sql")
    tables["generate"] = tables["generate"].set_column(place, "generated_sql", [texts])
    try:
        output = bind(context)(Task(context.parts[0], 0, tables, unheard))
    finally:
        context.close()
    became = [(row["executes"], row["same_result"]) for row in output.table.to_pylist()]
    assert became == [[(True, True), (True, False), (False, False)][row % 3] for row in range(len(gold))]


CHANGES = {"generate__max_new_tokens": 5, "generate__temperature": 0.7, "generate__seed": 3}


def test_each_setting_reruns_the_stage_alone(small: dict[str, object]) -> None:
    names = {
        f"generate__{name}" for name in GenerateSettings.model_fields if GenerateSettings.kind_of(name) is SettingKind.IDENTITY
    }
    assert CHANGES.keys() == names
    base: dict[str, object] = {"generate__max_new_tokens": 4}
    run_build(configure(small, **base), "generate")
    for name, value in CHANGES.items():
        config = configure(small, **base | {name: value})
        context = open_context(config)
        plan = make_plan(Grid(stages(context, "generate"), context.parts, store_of(config)), store_of(config), None)
        assert [(stage.stage, stage.is_stale) for stage in plan] == [("ingest", False), ("generate", True)], name
        context.close()
    more = configure(small, **base, generate__samples=2, generate__temperature=0.7)
    assert made(run_build(more, "generate")) == {"generate": 6}
    assert made(run_build(configure(small, **base, generate__samples=3, generate__temperature=0.7), "generate")) == {
        "generate": 3
    }
    with pytest.raises(KidpipeError, match="2 greedy answers"):
        run_build(configure(small, generate__samples=2), "generate")
