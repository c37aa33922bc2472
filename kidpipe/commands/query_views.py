"""A store in; the views that `kidpipe query` has beside the stages, out: verdicts, runs, steps and comparisons."""

from collections.abc import Iterable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from kidcore.atomic import replacing
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.store.store import Store

_FILES = {
    "verdicts": ("eval/*/verdicts.parquet", "evaluation", "read_parquet(?, union_by_name = true, filename = true)"),
    "steps": (
        "runs/*/log.jsonl",
        "run",
        "read_json(?, format = 'newline_delimited', union_by_name = true, filename = true, ignore_errors = true)",
    ),
    "comparisons": ("compare/*/runs.parquet", "comparison", "read_parquet(?, union_by_name = true, filename = true)"),
}
"""By view: which files of the store it shows, the column that names their folder, and what reads them."""
_RUNS = pa.schema(
    [
        ("run", pa.string()),
        ("is_finished", pa.bool_()),
        ("method", pa.string()),
        ("steps", pa.int64()),
        ("best_step", pa.int64()),
        ("best_nll", pa.float64()),
        ("final_nll", pa.float64()),
        ("start_nll", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
_FORMATS = {".csv": "FORMAT csv, HEADER", ".parquet": "FORMAT parquet"}


def make_views(connection: duckdb.DuckDBPyConnection, root: Path) -> list[str]:
    """Make the views of what is there; their names."""
    connection.register("runs", pa.Table.from_pylist(_runs(Store(root)), schema=_RUNS))
    made = ["runs"]
    for name, (pattern, folder, reader) in _FILES.items():
        files = [path for path in sorted(root.glob(pattern)) if path.stat().st_size]
        if not files:
            continue
        # A file that another program broke hides its view, and stops no question about the others.
        with suppress(duckdb.Error):
            connection.execute(
                f"CREATE VIEW {name} AS SELECT parse_path(filename)[-2] AS {folder}, * EXCLUDE (filename) "
                # A torn line of a log comes out as a row of nothing.
                f"FROM {reader.replace('?', file_list(files))}" + (" WHERE kind IS NOT NULL" if name == "steps" else "")
            )
            made.append(name)
    return made


def file_list(files: Iterable[Path]) -> str:
    """The files as a list in DuckDB's SQL, which would take `[1]` or `*` in a folder's name for a pattern."""
    return "[" + ", ".join("'" + escape(str(file)).replace("'", "''") + "'" for file in files) + "]"


def require_writable(out: Path | None) -> None:
    """Refuse a file of another kind, and a folder, before anything is asked."""
    if out is None:
        return
    if out.suffix.lower() not in _FORMATS:
        raise KidpipeError(f"no such kind of file: {out.name}", where="--out", fix="name a file that ends in .csv or .parquet")
    if out.is_dir():
        raise KidpipeError(f"there is a folder of this name: {out}", where="--out", fix="name a file in it, or another one")


def write_rows(connection: duckdb.DuckDBPyConnection, sql: str, out: Path) -> int:
    """Write what `sql` gives to a .csv or .parquet file; the number of rows."""
    relation = connection.sql(sql)
    if relation is None:
        raise KidpipeError("this statement gives no rows to write", where=sql, fix="start with SELECT or FROM")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not counted apart: that would run the statement again, and samples come out otherwise.
    connection.register("_written", relation)
    with replacing(out) as temporary:
        target = str(temporary).replace("'", "''")
        [(rows,)] = connection.execute(f"COPY _written TO '{target}' ({_FORMATS[out.suffix.lower()]})").fetchall()
    return int(rows)


def _runs(store: Store) -> list[dict[str, Any]]:
    rows = []
    for folder in sorted(path for path in (store.root / "runs").glob("*") if path.is_dir()):
        result, identity = (store.known_object(f"runs/{folder.name}/{name}") for name in ("result.json", "run.json"))
        # Settings at their default are left out of a run's identity.
        default = TrainSettings.model_fields["method"].default
        method = (identity.get("settings") or {}).get("method", default) if identity else None
        figures = {name: result.get(name) for name in _RUNS.names[3:]}
        rows.append({"run": folder.name, "is_finished": bool(result), "method": method, **figures})
    return rows
