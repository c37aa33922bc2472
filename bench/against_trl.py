"""Training time and memory of our trainer against TRL's, on the same examples, student, teacher, batch and precision.

    pip install -e '.[bench]'
    python -m bench.against_trl --json against_trl.json [--data FOLDER] [--device cuda] [--full]

What each side computes, all over the same token ids of Spider's training questions:
- ours sft: maximum likelihood on the gold SQL, our optimiser step (train.step) with packs as prefix trees or end to end.
  Our loader keeps 4 questions on one schema together (train.group_size), and so do these batches. Reading examples from
  shards is left out: examples lie in memory, as TRL's tokenised data set does. Building the trees is counted.
- ours rkd: the same, and reverse KL to the teacher's stored top-K on the gold SQL. ours kid: gold, and reverse KL on one
  imperfect view in which 20% of the tokens differ, the most that the default mask ratio can give.
- teacher passes: what our build pays for one view (predict and score) or for the gold SQL (score), once for any number of
  epochs and students, through the transformers engine. `with_teacher` ratios charge it in full to one epoch.
- TRL SFTTrainer, padded (its default) and packed (best fit, padding-free): the same loss as ours sft; first losses are
  printed beside each other. TRL 1.16 too runs the LM head in chunks, on a GPU at supervised positions only.
  Attention is SDPA on both sides: without padding TRL's packs then run under a dense mask, which is slow for long packs; with
  FlashAttention, which TRL recommends for packing and which needs a GPU, they would be faster. This is not measured.
- TRL DistillationTrainer: the student writes SQL, the teacher judges it at full vocabulary, reverse KL. The student here is
  untrained and would never stop, so it writes as many tokens as the gold SQL has on average, fewer than a trained one's
  batch would need until its longest answer ends. Both sides generate with transformers. ours gkd is the same algorithm.
- TRL GKDTrainer with lmbda = 0: no generation, the teacher runs on the gold SQL in every step.

The plain keys of `ratios` are the worst over the sizes; sizes have keys of their own. Below 1 is faster.
"""

import statistics
from functools import partial
from typing import Any

from bench.examples import Row, make_steps
from bench.mix import read_rows
from bench.report import Sides, report
from bench.session import environment, open_session, run
from bench.students import VOCAB_SIZE, Load, Shape, load_of, our_turn, shapes
from bench.teachers import BenchTeacher, open_teacher
from bench.timing import Costs, Turn, interleave, release
from bench.trl_turns import distillation_turn, gkd_turn, require_trl, sft_turn

GROUP_SIZE = 4
REWRITTEN = 0.2
RATIOS: dict[str, Sides] = {
    "ours_over_trl_sft_padded": (("ours sft, tree",), ("TRL SFT, padded",)),
    "ours_over_trl_sft_packed": (("ours sft, tree",), ("TRL SFT, packed",)),
    "ours_plain_over_trl_sft_padded": (("ours sft, plain",), ("TRL SFT, padded",)),
    "ours_plain_over_trl_sft_packed": (("ours sft, plain",), ("TRL SFT, packed",)),
    "ours_kid_over_trl_sft_padded": (("ours kid, tree",), ("TRL SFT, padded",)),
    "ours_over_trl_distillation": (("ours kid, tree",), ("TRL distillation",)),
    "ours_with_teacher_over_trl_distillation": (("ours kid, tree", "teacher, a view"), ("TRL distillation",)),
    "ours_gkd_over_trl_distillation": (("ours gkd, tree",), ("TRL distillation",)),
    "ours_over_trl_gkd_offline": (("ours rkd, tree",), ("TRL GKD, lmbda 0",)),
    "ours_with_teacher_over_trl_gkd_offline": (("ours rkd, tree", "teacher, gold"), ("TRL GKD, lmbda 0",)),
}
COMPILED: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("ours kid, tree", "teacher, gold")}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the JSON."""
    session = open_session("bench.against_trl", __doc__, arguments, budget_s={"cpu": 420, "cuda": 120, "full": 3600})
    require_trl()
    where = environment(session.device)
    load = load_of(session.size, session.device)
    limit = 40 if session.size == "tiny" else 0
    rows, tokenizer = read_rows(session.data, VOCAB_SIZE, limit=limit)
    sizes = shapes(session.size, session.device)
    measured: dict[str, Costs] = {}
    ways: list[str] = []
    for number, shape in enumerate(sizes):
        with open_teacher(shape, load.device) as teacher:
            turns = make_turns(shape, load, rows, tokenizer, teacher)
            ways = list(turns)
            # The smaller size gets less of the time.
            budget_s = session.left_s * (0.3 if number < len(sizes) - 1 else 1.0)
            measured[shape.name] = interleave(turns, rounds=session.rounds, budget_s=budget_s, warm=COMPILED[load.device])
        release()
    report(session, where, load, measured, RATIOS, ways=ways)


def make_turns(shape: Shape, load: Load, rows: list[Row], tokenizer: Any, teacher: BenchTeacher) -> dict[str, Turn]:
    """Every way, by its name in the tables."""
    make = partial(
        make_steps,
        rows,
        batch_size=load.batch_size,
        group_size=GROUP_SIZE,
        rewritten=REWRITTEN,
        vocab_size=VOCAB_SIZE,
        num_steps=load.steps,
    )
    gold, scored, kid = make(views=0), make(views=0, score_gold=True), make(views=1)
    prompts = {row.example_id: row.prompt for row in rows}
    new_tokens = round(statistics.mean(x.branches[0].num_supervised for step in gold for x in step))
    tree = {"packing": "tree"}
    on_policy = {"method": "gkd", "divergence": "reverse_kl"} | tree
    # GKDTrainer holds several tensors of the size of its logits.
    logits_rows = 4 if shape.vocab_size > 100_000 else 0
    return {
        "ours sft, tree": our_turn(shape, load, gold, {"method": "sft"} | tree),
        "TRL SFT, padded": sft_turn(shape, load, gold, tokenizer, packing=False),
        "ours sft, plain": our_turn(shape, load, gold, {"method": "sft", "packing": "plain"}),
        "TRL SFT, packed": sft_turn(shape, load, gold, tokenizer, packing=True),
        "ours rkd, tree": our_turn(shape, load, scored, {"method": "rkd"} | tree),
        "TRL GKD, lmbda 0": gkd_turn(shape, load, gold, tokenizer, teacher.make, rows=logits_rows),
        "ours kid, tree": our_turn(shape, load, kid, {"method": "kid"} | tree),
        "TRL distillation": distillation_turn(shape, load, gold, tokenizer, teacher.make, prompts, new_tokens),
        "ours gkd, tree": our_turn(shape, load, gold, on_policy, partial(teacher.lessons, new_tokens)),
        "teacher, gold": teacher.scores(load, gold, passes=1),
        "teacher, a view": teacher.scores(load, kid, passes=2),
    }


if __name__ == "__main__":
    run(main)
