"""A store's manifest in; what its build made, in figures and examples, out."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kidcore.method.knowledge import teachers_faults
from kidcore.store.frames import read_frame
from kidcore.store.knowledge import teacher_knowledge
from kidcore.store.manifest import Manifest
from kidcore.store.store import Store
from kidpipe.report import plots
from kidpipe.report.page import Block, HtmlTable, Line, Piece, ReadExample, Section, line

MOST_SHARDS = 40
"""Shards that figures are drawn from: enough for any shape, and a report on millions of rows opens no more."""
SHOWN = 200
"""Examples to read."""
_BINS = 40
_LEAST_LOGPROB = -100.0
"""What a stored -inf counts as (a token that the teacher excludes): it adds nothing, where 0 times infinity is no number."""

Decode = Callable[[int], str]


def build_section(store: Store, manifest: Manifest, decode: Decode) -> Section:
    """Counts, rewrites by strategy, what the teacher knew, and examples with its choices at each hole.

    Args:
        decode: a token's text.
    """
    section = Section("Build")
    section.blocks.append(Block("Stages", table=_stages(manifest)))
    rewrites = read_frame(store, manifest, "rewrite", most_files=MOST_SHARDS)
    if not rewrites.is_empty():
        outcomes = read_frame(store, manifest, "outcome", most_files=MOST_SHARDS)
        section.blocks.append(Block("Rewrites", _rewrite_text(rewrites), figures=_rewrites(rewrites, outcomes)))
    if (knowledge := teacher_knowledge(store, manifest)) is not None:
        text = " ".join([f"{knowledge}.", *(f"Warning: {fault}." for fault in teachers_faults(knowledge))])
        section.blocks.append(Block("The teacher on gold", f"Over {knowledge.answers:,} questions: {text}"))
    stage = "score" if "score" in manifest.stages else "gold_score"
    columns = ["gold_ids", "topk_count", "topk_logprobs", "tail", "actual_logprob"]
    scores = read_frame(store, manifest, stage, columns, most_files=MOST_SHARDS)
    if not scores.is_empty():
        where = "imperfect" if stage == "score" else "gold"
        section.blocks.append(Block("The teacher", f"At the SQL positions of {where} sequences.", figures=_teacher(scores)))
    if not rewrites.is_empty():
        section.blocks.append(Block("Examples", examples=_examples(store, manifest, rewrites, decode)))
    return section


def _stages(manifest: Manifest) -> HtmlTable:
    rows = []
    for name, counts in manifest.counts.items():
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(counts.get("set_aside", {}).items()))
        rows.append((name, f"{counts['in']:,}", f"{counts['out']:,}", reasons))
    return HtmlTable(("stage", "rows in", "rows out", "set aside"), rows, frozenset({1, 2}))


def _rewrite_text(rewrites: pl.DataFrame) -> str:
    changed, masked = int(rewrites["num_rewritten"].sum()), int(rewrites["num_masked"].sum())
    return f"{changed:,} of {masked:,} masked tokens were filled with another token ({changed / max(masked, 1):.1%})."


def _rewrites(rewrites: pl.DataFrame, outcomes: pl.DataFrame) -> list[str]:
    frame = rewrites.select("example_id", "view", "strategy", "num_masked", "num_rewritten", "parses")
    shares = {
        "masked tokens rewritten": pl.col("num_rewritten").sum() / pl.col("num_masked").sum(),
        "queries that differ": (pl.col("num_rewritten") > 0).mean(),
        "parse": pl.col("parses").mean(),
    }
    if not outcomes.is_empty():
        frame = frame.join(
            outcomes.select("example_id", "view", "executes", "same_result"), on=["example_id", "view"], how="left"
        )
        shares |= {"execute": pl.col("executes").mean(), "give gold's result": pl.col("same_result").mean()}
    table = frame.group_by("strategy").agg(**{name: 100 * share for name, share in shares.items()}).sort("strategy")
    series = {row["strategy"]: [row[name] for name in shares] for row in table.iter_rows(named=True)}
    by_view = frame.group_by("view").agg(rate=100 * shares["masked tokens rewritten"]).sort("view")
    views = {f"view {row['view']}": row["rate"] for row in by_view.iter_rows(named=True)}
    return [
        plots.grouped_bars("Imperfect SQL by masking strategy", list(shares), series, unit="%"),
        plots.bars("Masked tokens rewritten, by view", views, unit="%"),
    ]


def _teacher(scores: pl.DataFrame) -> list[str]:
    counts = _flat(scores, "topk_count").astype(np.int64)
    entropy = _entropy(counts, _flat(scores, "topk_logprobs").astype(np.float64), _flat(scores, "tail").astype(np.float64))
    tail = np.log10(np.clip(_flat(scores, "tail"), 1e-12, None))
    actual = np.exp(_flat(scores, "actual_logprob"))
    figures = (
        ("Entropy of the teacher", entropy, "nats"),
        ("Token ids stored", counts.astype(np.float64), "ids per position"),
        ("Mass outside them", tail, "log10 of the tail"),
        ("Probability of the token that stands there", actual, "probability"),
    )
    return [_histogram(title, values, label) for title, values, label in figures]


def _histogram(title: str, values: NDArray[np.floating[Any]], label: str) -> str:
    counts, edges = np.histogram(values, bins=_BINS)
    return plots.histogram(title, edges.tolist(), counts.tolist(), label=label, log=True)


def _flat(frame: pl.DataFrame, name: str) -> NDArray[Any]:
    return frame[name].explode().drop_nulls().to_numpy()


def _entropy(counts: NDArray[np.int64], logprobs: NDArray[np.float64], tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy at each position over the stored ids and one bucket for the rest, nats. Shapes [N], [sum of counts], [N]."""
    logprobs = np.maximum(logprobs, _LEAST_LOGPROB)
    terms = -np.exp(logprobs) * logprobs
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    inside = np.add.reduceat(np.append(terms, 0.0), starts) * (counts > 0)
    outside = np.where(tail > 0, -tail * np.log(np.where(tail > 0, tail, 1.0)), 0.0)
    return np.asarray(inside + outside)


def _examples(store: Store, manifest: Manifest, rewrites: pl.DataFrame, decode: Decode) -> list[ReadExample]:
    """The first rows of view 0, then of the others, gold and imperfect token by token."""
    rewrites = rewrites.sort("view", maintain_order=True).head(SHOWN)
    ingest = read_frame(store, manifest, "ingest", ["example_id", "question", "gold_ids"], most_files=MOST_SHARDS)
    names = ["example_id", "view", "hole_ids", "hole_logprobs"]
    predict = read_frame(store, manifest, "predict", names, most_files=MOST_SHARDS)
    joined = rewrites.join(ingest, on="example_id").join(predict, on=["example_id", "view"])
    return [_example(row, decode) for row in joined.iter_rows(named=True)]


def _example(row: Mapping[str, Any], decode: Decode) -> ReadExample:
    masked = set(row["masked"])
    gold, holes, imperfect = [], [], []
    for position, (old, new) in enumerate(zip(row["gold_ids"], row["imperfect_ids"], strict=True)):
        is_hole = position in masked
        gold.append(Piece(decode(old), "hole" if is_hole else ""))
        holes.append(Piece(" ▁ " if is_hole else decode(old), "hole" if is_hole else ""))
        imperfect.append(Piece(decode(new), "wrong" if old != new else "right" if is_hole else ""))
    lines = [line("question", row["question"]), Line("gold", gold), Line("masked", holes), Line("imperfect", imperfect)]
    best = np.reshape(row["hole_ids"], (len(row["masked"]), -1))
    logprobs = np.reshape(row["hole_logprobs"], (len(row["masked"]), -1))
    for hole, position in enumerate(row["masked"]):
        was, filled = row["gold_ids"][position], row["imperfect_ids"][position]
        choices = [
            Piece(f"{decode(int(token))!r} {np.exp(logprob):.1%}  ", _style(token, was, filled))
            for token, logprob in zip(best[hole, :5], logprobs[hole, :5], strict=True)
            if token >= 0
        ]
        lines.append(Line(f"hole {position}: {decode(was)!r} became {decode(filled)!r}; the model's best:", choices))
    verdict = "parses" if row["parses"] else "does not parse"
    return ReadExample(f"{row['example_id']}  view {row['view']}  {row['db_id']}: {row['question']} ({verdict})", lines)


def _style(token: int, gold: int, filled: int) -> str:
    if token == gold:
        return "right"
    return "wrong" if token == filled else ""
