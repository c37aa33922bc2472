"""A Spider folder in; tokens through the trunk a training example, shared-prefix trees against one row a view, out.

    python -m bench.trunk_tokens --data ../shared/data/spider --json trunk_tokens.json

Exact: no model and no clock. `naive` is one row a sequence without its padding, `padded` what a batch of such rows holds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.mix import Row, make_steps, read_rows
from kidpipe.trees.layout import Layout
from train.packing import make_packs

VOCAB_SIZE = 2000


def main() -> None:
    """Print one line a case, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the Spider layout")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--full", action="store_true", help="all questions instead of the first 2,000")
    options = parser.parse_args()
    rows, _ = read_rows(options.data, VOCAB_SIZE, limit=0 if options.full else 2000)
    cases = [
        _count(rows, group_size, views, rewritten)
        for group_size in (1, 4, 8, 32)
        for views, rewritten in ((0, 0.0), (1, 0.03), (1, 0.2), (4, 0.03), (4, 0.2))
    ]
    print("group  views  rewritten  tree tokens  flat tokens  padded tokens  flat/tree")
    for case in cases:
        print(
            f"{case['group_size']:5} {case['views']:6} {case['rewritten']:10} {case['tree']:12.1f} {case['naive']:12.1f}"
            f" {case['padded']:14.1f} {case['naive'] / case['tree']:10.2f}"
        )
    ratios = {
        f"tree_over_flat_group{x['group_size']}_views{x['views']}_rewritten{x['rewritten']}": x["tree"] / x["naive"]
        for x in cases
    }
    # 4 views, the default group, and every masked token rewritten: a strong teacher leaves fewer, so this is the worst.
    ratios["tree_over_flat"] = ratios["tree_over_flat_group4_views4_rewritten0.2"]
    if options.json:
        text = json.dumps({"cases": cases, "ratios": ratios}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


def _count(rows: list[Row], group_size: int, views: int, rewritten: float) -> dict[str, Any]:
    """Tokens an example: gold and `views` imperfect branches, batches of 32 in the trainer's order."""
    steps = make_steps(rows, batch_size=32, group_size=group_size, views=views, rewritten=rewritten, vocab_size=VOCAB_SIZE)
    num_examples = sum(map(len, steps))
    naive = sum(len(branch.tokens) for step in steps for example in step for branch in example.branches)
    figures: dict[str, Any] = {"group_size": group_size, "views": views, "rewritten": rewritten, "examples": num_examples}
    layouts: dict[str, Layout] = {"tree": "tree", "padded": "none"}
    for name, layout in layouts.items():
        tokens = sum(pack.num_tokens for step in steps for pack in make_packs(step, layout, 4096))
        figures[name] = tokens / num_examples
    return figures | {"naive": naive / num_examples}


if __name__ == "__main__":
    main()
