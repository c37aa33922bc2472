"""A db_id in; its database file, the files of its test suite and its exact-set matcher out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eval.names import read_names
from eval.spider.exact_match import ExactMatcher
from kidcore.errors import KidpipeError


@dataclass
class Databases:
    """Where predictions are executed.

    Args:
        path: the database file of a db_id.
        suite: folder of <db_id>/*.sqlite, further databases on which a prediction must hold (ts_bag); None = no suite.
        links: key links by db_id (`read_tables_json`); databases not in it are taken at their declared foreign keys.
    """

    path: Callable[[str], Path]
    suite: Path | None = None
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _matchers: dict[str, ExactMatcher | None] = field(default_factory=dict)

    def suite_files(self, db_id: str) -> list[Path]:
        """The suite's databases of `db_id`, sorted by name; empty where there is no suite."""
        if self.suite is None:
            return []
        return sorted(path for path in (self.suite / db_id).glob("*") if path.suffix in (".sqlite", ".duckdb"))

    def matcher(self, db_id: str) -> ExactMatcher | None:
        """Exact set match on the names of `db_id`; None where its database can't be read."""
        if db_id not in self._matchers:
            try:
                self._matchers[db_id] = ExactMatcher(read_names(self.path(db_id), self.links.get(db_id)))
            except KidpipeError:
                self._matchers[db_id] = None  # its golds fail too, which is what gets reported
        return self._matchers[db_id]

    def require_suite(self, db_ids: Collection[str] = ()) -> None:
        """Refuse a suite folder that isn't there, or that has databases for none of `db_ids`."""
        if self.suite is None:
            return
        fix = "name the folder that holds <db_id>/*.sqlite"
        if not self.suite.is_dir():
            raise KidpipeError("test suite missing", where=str(self.suite), fix=fix)
        if db_ids and not any(self.suite_files(db_id) for db_id in db_ids):
            raise KidpipeError("the test suite has none of the data's databases", where=str(self.suite), fix=fix)
