"""`kidpipe build-imperfect` and `kidpipe plan`."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from kidcore.errors import KidpipeError, nearest
from kidcore.store.graph import Grid
from kidcore.store.manifest import rates, read_manifest
from kidcore.store.plan import StagePlan, engine_start_s, make_plan
from kidcore.store.stages import MODEL_STAGES, STAGES, needs_start, targets_of
from kidpipe.commands.idle_settings import warn_of_idle
from kidpipe.commands.next_command import after_build, fails_at_eval
from kidpipe.commands.on_gold import on_gold, on_gold_lines
from kidpipe.commands.session import Session, show_bytes, show_seconds, text_table
from kidpipe.commands.shown_tables import print_table
from pipeline.build import build
from pipeline.changed_inputs import changed_inputs
from pipeline.chat import ChatChoice
from pipeline.context import open_context
from pipeline.stages import stages

_LOG = logging.getLogger(__name__)
_WIDE = 100
"""Columns of a screen on which a plan's reasons fit beside its figures."""


def build_imperfect(session: Session, *, until: str, as_json: bool, quiet: bool = False) -> dict[str, Any]:
    """Run what is stale and, unless `quiet`, say what came of it."""
    _require_stage(until)
    warn_of_idle(session, trains=False)
    read_manifest(session.store)  # a manifest of a newer kidpipe is refused before any work
    needs = {"need_teacher": until != "ingest", "need_start": needs_start(until)}
    context = open_context(session.config, **needs, may_ask=True, verbose=session.verbose)
    # Said, not refused: a student can be trained without. But hours later is too late to hear it first.
    if not quiet and (fault := fails_at_eval(session)):
        _LOG.warning("kidpipe eval will fail on this data: %s", fault)
    try:
        result = build(context, session.store, until=until, progress=not (as_json or quiet or session.is_silent))
    finally:
        context.close()
    summary = {
        "manifest": result.manifest.digest,
        "ran": result.ran,
        "reused": result.reused,
        "seconds": {name: round(value, 2) for name, value in result.seconds.items()},
        "counts": result.manifest.counts,
        **rates(result.manifest),
        "next": after_build(session, until),
        "teacher_on_gold": on_gold(result.knowledge),
        "chat": context.chat.as_json() if context.chat else None,
    }
    if as_json:
        session.print_json(summary)
    elif not quiet:
        _print_result(session, summary)
    return summary


def _require_stage(until: str) -> None:
    for name in targets_of(until):
        if name in STAGES:
            continue
        near = nearest(name, STAGES)
        fix = f"did you mean {near}? " if near else ""
        raise KidpipeError(f"no such stage: {name}", where="--until", fix=f"{fix}the stages are {', '.join(STAGES)}")


def _print_result(session: Session, summary: Mapping[str, Any]) -> None:
    ingest = summary["counts"]["ingest"]
    say = session.console.print
    if chat := summary["chat"]:
        say(f"prompts     {ChatChoice(**chat)}")
    say(f"examples    {ingest['in']:,} in = {ingest['out']:,} out + {ingest['in'] - ingest['out']:,} set aside")
    for reason, number in sorted(ingest.get("set_aside", {}).items(), key=lambda item: -item[1]):
        say(f"              {number:,} {reason}")
    if "rewrite_rate" in summary:
        share = {name: f"{value:.1%}" for name, value in summary.items() if isinstance(value, float)}
        say(f"imperfect   rewrite rate {share['rewrite_rate']} of masked tokens, {share['changed_rows']} of queries differ")
        executed = f", {share['execute']} execute, {share['same_result']} give the gold result" if "execute" in share else ""
        say(f"              {share['parse']} parse{executed}")
        if "accepted" in share:
            say(f"              {share['accepted']} of the student's tokens were kept by the teacher")
    if "stored_ids" in summary:
        say(f"teacher     {summary['stored_ids']:.1f} ids stored a position")
    for line in on_gold_lines(summary["teacher_on_gold"]):
        say(line)
    if answers := summary["counts"].get("generate"):
        correct = summary["counts"].get("generate_outcome")
        same = f", {correct['same_result']:,} give the gold result" if correct else ""
        say(f"answers     {answers['out']:,} of the teacher's own, {answers['gold']:,} of them gold to the token{same}")
        for reason, number in sorted(answers.get("set_aside", {}).items(), key=lambda item: -item[1]):
            say(f"              {number:,} set aside: {reason}")
    if "rollout" in summary["counts"]:
        _print_rollouts(session, summary["counts"])
    ran, reused = sum(summary["ran"].values()), sum(summary["reused"].values())
    say(f"shards      {ran} made, {reused} reused; manifest {summary['manifest']}")
    if not session.is_step:
        say(f"next        {summary['next']}", soft_wrap=True)


def _print_rollouts(session: Session, counts: Mapping[str, Any]) -> None:
    answers, outcome = counts["rollout"], counts.get("rollout_outcome", {})
    done = {
        "gold to the token": answers["gold"],
        "parse": answers["parse"],
        "execute": outcome.get("execute"),
        "give the gold result": outcome.get("same_result"),
    }
    shares = [f"{count / max(answers['out'], 1):.1%} {what}" for what, count in done.items() if count is not None]
    session.console.print(f"rollouts    {answers['out']:,} answers of the student: {', '.join(shares)}")


def plan(session: Session, *, why: bool, as_json: bool, check: bool, until: str) -> None:
    """Say what a build would run; with `check`, exit with 1 when that is anything."""
    _require_stage(until)
    warn_of_idle(session, trains=False)
    needs = {"need_teacher": until != "ingest", "need_start": needs_start(until)}
    context = open_context(session.config, **needs, verbose=session.verbose)
    grid = Grid(stages(context, until), context.parts, session.store)
    manifest = read_manifest(session.store)
    plans = make_plan(grid, session.store, manifest, lambda name: changed_inputs(context, session.store, manifest, name))
    asks = any(p.asks and p.stage in MODEL_STAGES for p in plans)
    start_s = engine_start_s(session.store) if asks else None
    chat = context.chat
    if as_json:
        found = {"stale": any(p.is_stale for p in plans), "stages": [p.as_json() for p in plans]}
        session.print_json(found | {"engine_start_s": start_s} | _chat_of_plan(chat))
    else:
        if chat:
            session.console.print(f"prompts     {chat}")
        _print_plan(session, plans, why, start_s)
    if check and any(p.is_stale for p in plans):
        sys.exit(1)


def _chat_of_plan(chat: ChatChoice | None) -> dict[str, Any]:
    return {"chat": chat.as_json()} if chat else {}


def _print_plan(session: Session, plans: list[StagePlan], why: bool, start_s: float | None) -> None:
    columns = {"stage": "left", "": "left", "shards to run": "right", "done": "right", "rows": "right"}
    columns |= {"about": "right", "writes": "right"}
    # On a narrow screen reasons stand below: names of settings are not to be cut.
    is_beside = why and session.console.width >= _WIDE
    table = text_table("", columns | ({"why": "left"} if is_beside else {}))
    for stage in plans:
        state = ("stale", "yellow") if stage.stale else ("follows", "yellow") if stage.follows else ("done", "green")
        counts = (str(stage.stale + stage.follows), str(stage.done), f"{stage.rows:,}")
        row: list[str | Text] = [stage.stage, Text.assemble(state), *counts]
        most = "at most " if stage.is_at_most else ""
        row.append(most + show_seconds(stage.estimate_s) if stage.is_stale else "")
        row.append("" if not stage.is_stale else "?" if stage.estimate_bytes is None else show_bytes(stage.estimate_bytes))
        table.add_row(*row, *(["; ".join(stage.reasons)] if is_beside else []))
    print_table(session.console, table)
    for stage in plans if why and not is_beside else ():
        if stage.reasons:
            session.console.print(f"{stage.stage}: {'; '.join(stage.reasons)}")
    if not any(stage.is_stale for stage in plans):
        session.console.print("nothing to run")
    if start_s is not None:
        session.console.print(f"and an engine's start, about {show_seconds(start_s)}")
