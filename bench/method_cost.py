"""The paper's table: training time of each method relative to plain fine-tuning, all in our trainer.

    python -m bench.method_cost --json method_cost.json [--data FOLDER] [--device cuda] [--full]

Plain fine-tuning is `sft` with `packing = none`: one padded sequence a row, rows of like length together, which is kinder to
it than the usual random batches. All methods take the same questions of Spider's training set, 4 of one schema together
(train.group_size), with a student and a teacher made from scratch.

- tree: packs as prefix trees, the default. padded: the same objective without sharing, as the paper trains.
- kid learns from gold and from stored imperfect views in which 20% of the tokens differ: with the default mask ratio that is
  a teacher that never fills in the gold token, the costliest there can be for a tree. `kid, 3% rewritten` is a strong one.
- imitkd, gkd, kid-online ask the teacher in every step, as the papers do. imitkd and gkd let the student write SQL. It is
  untrained and would never stop, so it writes as many tokens as the gold SQL has on average.
- teacher rows are what a build pays once, for all epochs and students: `with_teacher` ratios charge one epoch with it.

The plain keys of `ratios` are the worst over the sizes; sizes have keys of their own. Below 1 is cheaper than fine-tuning.
The column of trunk tokens is exact: no machine can make the trunk's share of the time smaller than that ratio.
"""

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from bench.examples import Row, make_steps
from bench.mix import read_rows
from bench.profile_step import profile_table, time_by_kind
from bench.report import Sides, all_ratios, report
from bench.session import environment, open_session, run
from bench.students import VOCAB_SIZE, Load, Shape, Trainee, load_of, our_turn, shapes
from bench.teachers import BenchTeacher, open_teacher
from bench.timing import Costs, Turn, interleave, release
from kidcore.config.train_settings import TrainSettings
from train.data.examples import TrainingExample

GROUP_SIZE = 4
BASE = "sft, padded"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("gold", {"method": "sft"}),
    "seqkd": ("gold", {"method": "seqkd"}),
    "fkd": ("scored gold", {"method": "fkd"}),
    "rkd": ("scored gold", {"method": "rkd"}),
    "rkd, padded": ("scored gold", {"method": "rkd", "packing": "none"}),
    "f-distill": ("scored gold", {"method": "f-distill"}),
    "kid": ("1 view", {"method": "kid"}),
    "kid, padded": ("1 view", {"method": "kid", "packing": "none"}),
    "kid, 3% rewritten": ("1 view, 3%", {"method": "kid"}),
    "kid, 4 views": ("4 views", {"method": "kid", "views_per_step": 4}),
    "kid, 4 views, 3% rewritten": ("4 views, 3%", {"method": "kid", "views_per_step": 4}),
    "kid-online": ("gold", {"method": "kid-online"}),
    "imitkd": ("gold", {"method": "imitkd"}),
    "gkd": ("gold", {"method": "gkd"}),
}
"""Way -> (examples, settings of [train]); trees where nothing else is said."""
ONLINE = ("kid-online", "imitkd", "gkd")
RATIOS: dict[str, Sides] = {
    "sft_tree_over_sft": (("sft",), (BASE,)),
    "seqkd_over_sft": (("seqkd",), (BASE,)),
    "fkd_over_sft": (("fkd",), (BASE,)),
    "rkd_over_sft": (("rkd",), (BASE,)),
    "rkd_padded_over_sft": (("rkd, padded",), (BASE,)),
    "f_distill_over_sft": (("f-distill",), (BASE,)),
    "kid_over_sft": (("kid",), (BASE,)),
    "kid_padded_over_sft": (("kid, padded",), (BASE,)),
    "kid_rewritten3_over_sft": (("kid, 3% rewritten",), (BASE,)),
    "kid_views4_over_sft": (("kid, 4 views",), (BASE,)),
    "kid_views4_rewritten3_over_sft": (("kid, 4 views, 3% rewritten",), (BASE,)),
    "kid_with_teacher_over_sft": (("kid", "teacher scores a view"), (BASE,)),
    "rkd_with_teacher_over_sft": (("rkd", "teacher scores gold"), (BASE,)),
    "seqkd_with_teacher_over_sft": (("seqkd", "teacher answers"), (BASE,)),
    "kid_online_over_sft": (("kid-online",), (BASE,)),
    "imitkd_over_sft": (("imitkd",), (BASE,)),
    "gkd_over_sft": (("gkd",), (BASE,)),
}
LIMITS = {"kid_over_sft": (0.5, 1.0), "kid_views4_over_sft": (0.5, 1.0)}
"""What is asked of a step on the same examples: half the time of plain fine-tuning, and at most its time."""
COMPILED: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("sft", "kid", "teacher scores gold")}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the JSON."""
    session = open_session("bench.method_cost", __doc__, arguments, budget_s={"cpu": 420, "cuda": 110, "full": 3600})
    where = environment(session.device)
    load = load_of(session.size, session.device)
    rows, _ = read_rows(session.data, VOCAB_SIZE, limit=40 if session.size == "tiny" else 0)
    sizes = shapes(session.size, session.device)
    measured: dict[str, Costs] = {}
    profiles: dict[str, dict[str, dict[str, float]]] = {}
    ways: list[str] = []
    for number, shape in enumerate(sizes):
        steps = make_mixes(rows, load)
        with open_teacher(shape, load.device) as teacher:
            turns = make_turns(shape, load, steps, teacher)
            ways = list(turns)
            # The smaller size gets less of the time.
            budget_s = session.left_s * (0.3 if number < len(sizes) - 1 else 1.0)
            measured[shape.name] = interleave(turns, rounds=session.rounds, budget_s=budget_s, warm=COMPILED[load.device])
        release()
        profiles[shape.name] = _profiles(shape, load, steps)
    notes = [_verdict(measured)]
    notes += [profile_table(f"ms of one step by kind of work, student {name}", found) for name, found in profiles.items()]
    report(session, where, load, measured, RATIOS, ways=ways, notes=notes, more={"profiles": profiles})


def make_mixes(rows: list[Row], load: Load) -> dict[str, list[list[TrainingExample]]]:
    """The same questions as each method stores them."""
    make = partial(
        make_steps,
        rows,
        batch_size=load.batch_size,
        group_size=GROUP_SIZE,
        vocab_size=VOCAB_SIZE,
        num_steps=load.steps,
    )
    return {
        "gold": make(views=0, rewritten=0.0),
        "scored gold": make(views=0, rewritten=0.0, score_gold=True),
        "1 view": make(views=1, rewritten=0.2),
        "1 view, 3%": make(views=1, rewritten=0.03),
        "4 views": make(views=4, rewritten=0.2),
        "4 views, 3%": make(views=4, rewritten=0.03),
    }


def make_turns(
    shape: Shape, load: Load, steps: Mapping[str, list[list[TrainingExample]]], teacher: BenchTeacher
) -> dict[str, Turn]:
    """Every way, by its name in the tables."""
    new_tokens = round(statistics.mean(x.branches[0].num_supervised for step in steps["gold"] for x in step))
    turns = {BASE: our_turn(shape, load, steps["gold"], {"method": "sft", "packing": "none"})}
    for way, (mix, settings) in WAYS.items():
        lessons = partial(teacher.lessons, new_tokens) if way in ONLINE else None
        turns[way] = our_turn(shape, load, steps[mix], {"packing": "tree"} | settings, lessons)
    turns["teacher scores gold"] = teacher.scores(load, steps["gold"], passes=1)
    turns["teacher scores a view"] = teacher.scores(load, steps["1 view"], passes=2)
    turns["teacher answers"] = teacher.answers(load, steps["gold"], new_tokens)
    return turns


def _verdict(measured: Mapping[str, Costs]) -> str:
    """How far what is asked of KID is, on the wall clock and in tokens."""
    found = all_ratios(measured, {key: RATIOS[key] for key in LIMITS}, "wall")
    lines = []
    for key, limits in LIMITS.items():
        if key in found:
            said = ", ".join(f"{'within' if found[key].median <= limit else 'above'} {limit}" for limit in limits)
            lines.append(f"{key}: {found[key]}; {said}.")
    return "\n".join(lines)


def _profiles(shape: Shape, load: Load, steps: Mapping[str, list[list[TrainingExample]]]) -> dict[str, dict[str, float]]:
    """Seconds by kind of work of one step of plain fine-tuning and of kid."""
    found = {}
    for way, mix, settings in (
        (BASE, "gold", {"method": "sft", "packing": "none"}),
        ("kid", "1 view", {"method": "kid", "packing": "tree"}),
        ("kid, 4 views", "4 views", {"method": "kid", "packing": "tree", "views_per_step": 4}),
    ):
        trainee = Trainee(shape, load, TrainSettings.model_validate(settings))
        trainee.step(steps[mix][0])
        found[way] = time_by_kind(trainee, steps[mix][0], shape.vocab_size)
        del trainee
        release()
    return found


if __name__ == "__main__":
    run(main)
