"""A session whose store holds imperfect queries in; some of them with their gold, to read, out."""

import polars as pl

from kidcore.store.frames import read_frame
from kidpipe.commands.session import Session

_SHOWN = 3


def look_lines(session: Session, title: str) -> list[str]:
    """`title`, then gold and imperfect SQL by turns, of the first examples that had more than one token masked."""
    manifest = session.manifest()
    ingested = read_frame(session.store, manifest, "ingest", ["example_id", "gold_sql"])
    rewritten = read_frame(session.store, manifest, "rewrite", ["example_id", "view", "imperfect_sql", "num_masked"])
    chosen = rewritten.filter((pl.col("num_masked") > 1) & (pl.col("view") == pl.col("view").min()))
    rows = chosen.join(ingested, on="example_id").sort("example_id").head(_SHOWN)
    lines = [title]
    for gold, imperfect in rows.select("gold_sql", "imperfect_sql").iter_rows():
        lines += [f"  gold      {gold}", f"  imperfect {imperfect}"]
    return lines
