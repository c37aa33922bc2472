"""Tokens through the trunk a training example: shared-prefix trees against one row a sequence. Exact: no model and no clock.

    python -m bench.trunk_tokens --json trunk_tokens.json [--data FOLDER] [--full]

`flat` is one row a sequence without its padding, `padded` what batches of such rows hold; an example is a question with its
gold SQL and its imperfect views. The default counts 60 steps of 32 questions of an epoch over all training questions, in the
trainer's own order; --full counts the epoch. `tree_over_flat` is for 4 views, the default group of 4 questions, and 20% of
the tokens rewritten, which the default mask ratio reaches only where the teacher never fills in the gold token: the worst.
"""

from typing import Any

from bench.examples import Row, make_steps
from bench.mix import read_rows
from bench.session import Session, finish, open_session, run
from bench.students import VOCAB_SIZE
from bench.timing import table
from kidcore.models.trees.layout import PackLayout
from train.data.packing import make_packs

BATCH_SIZE = 32
PACK_TOKENS = 4096
MIXES = ((0, 0.0), (1, 0.03), (1, 0.2), (4, 0.03), (4, 0.2))
"""(imperfect views, share of their tokens that differ from gold)."""
WORST = (4, 4, 0.2)
"""Group, views and share of the case that stands for all."""


def main(arguments: list[str] | None = None) -> None:
    """Count, print the table, write the JSON."""
    budget_s = {"cpu": 0.0, "cuda": 0.0, "full": 0.0}
    session = open_session("bench.trunk_tokens", __doc__, arguments, budget_s=budget_s)
    rows, _ = read_rows(session.data, VOCAB_SIZE, limit=100 if session.size == "tiny" else 0)
    num_steps = 0 if session.size == "full" else 60
    cases = [
        count(rows, group_size, views, rewritten, num_steps)
        for group_size in ((4,) if session.size == "tiny" else (1, 4, 8, 32))
        for views, rewritten in MIXES
    ]
    _report(session, cases)


def count(rows: list[Row], group_size: int, views: int, rewritten: float, num_steps: int) -> dict[str, Any]:
    """Tokens an example: gold and `views` imperfect branches, in batches."""
    steps = make_steps(
        rows,
        batch_size=BATCH_SIZE,
        group_size=group_size,
        views=views,
        rewritten=rewritten,
        vocab_size=VOCAB_SIZE,
        score_views=False,
        num_steps=num_steps,
    )
    num_examples = sum(map(len, steps))
    flat = sum(len(branch.tokens) for step in steps for example in step for branch in example.branches)
    figures: dict[str, Any] = {"group_size": group_size, "views": views, "rewritten": rewritten, "examples": num_examples}
    layouts: dict[str, PackLayout] = {"tree": "tree", "padded": "none"}
    for name, layout in layouts.items():
        tokens = sum(pack.num_tokens for step in steps for pack in make_packs(step, layout, PACK_TOKENS))
        figures[name] = tokens / num_examples
    return figures | {"flat": flat / num_examples}


def _report(session: Session, cases: list[dict[str, Any]]) -> None:
    header = [
        "questions a schema",
        "imperfect views",
        "rewritten",
        "tree",
        "flat",
        "padded",
        "times fewer",
        "tree over padded sft",
    ]
    # Plain fine-tuning puts the gold SQL alone through the trunk, in padded rows.
    plain = {case["group_size"]: case["padded"] for case in cases if case["views"] == 0}
    rows = [
        [
            str(case["group_size"]),
            str(case["views"]),
            f"{case['rewritten']:.0%}",
            f"{case['tree']:.0f}",
            f"{case['flat']:.0f}",
            f"{case['padded']:.0f}",
            f"{case['flat'] / case['tree']:.1f}",
            f"{case['tree'] / plain[case['group_size']]:.2f}",
        ]
        for case in cases
    ]
    ratios = {}
    for case in cases:
        name = f"group{case['group_size']}_views{case['views']}_rewritten{case['rewritten']}"
        ratios[f"tree_over_flat_{name}"] = case["tree"] / case["flat"]
        ratios[f"tree_over_padded_sft_{name}"] = case["tree"] / plain[case["group_size"]]
    group, views, rewritten = WORST
    for key in ("tree_over_flat", "tree_over_padded_sft"):
        ratios[key] = ratios[f"{key}_group{group}_views{views}_rewritten{rewritten}"]
    finish(session, {"ratios": ratios, "cases": cases}, f"{cases[0]['examples']:,} examples.\n\n{table(header, rows)}")


if __name__ == "__main__":
    run(main)
