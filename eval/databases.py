"""A db_id in; its database, the databases of its test suite and its exact-set matcher out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eval.names import read_names
from eval.spider.exact_match import ExactMatcher
from eval.spider.official import OfficialMatcher
from kidcore.errors import KidpipeError
from kidcore.sql.database import Database, database_in, database_of


@dataclass
class Databases:
    """Where predictions are executed.

    Args:
        database: the database of a db_id, or the file it is in.
        suite: folder of <db_id>/*.sqlite, further databases on which a prediction must hold (ts_bag); None = no suite.
        links: key links by db_id (`read_tables_json`); databases not in it are taken at their declared foreign keys.
    """

    database: Callable[[str], Database | Path]
    suite: Path | None = None
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _found: dict[str, Database] = field(default_factory=dict)
    _suites: dict[str, list[Database]] = field(default_factory=dict)
    _matchers: dict[tuple[str, bool], ExactMatcher | OfficialMatcher | None] = field(default_factory=dict)

    def of(self, db_id: str) -> Database:
        """The database of `db_id`."""
        if db_id not in self._found:
            self._found[db_id] = database_of(self.database(db_id), db_id)
        return self._found[db_id]

    def suite_databases(self, db_id: str) -> list[Database]:
        """The suite's databases of `db_id`, sorted by name; empty where there is no suite, or the db_id is no name in it."""
        if self.suite is None or database_in(self.suite, db_id).refusal:
            return []
        if db_id not in self._suites:  # asked for each row, and a suite has a hundred files a database
            # What macOS leaves beside a file it unpacked (._x.sqlite) is none of them.
            found = (path for path in (self.suite / db_id).glob("*") if not path.name.startswith("."))
            paths = sorted(path for path in found if path.suffix in (".sqlite", ".duckdb"))
            self._suites[db_id] = [database_of(path, db_id) for path in paths]
        return self._suites[db_id]

    def matcher(self, db_id: str, official: bool = False) -> ExactMatcher | OfficialMatcher | None:
        """Exact set match on the names of `db_id`, ours or as the official evaluator reads SQL; None where its database can't be
        read."""
        key = db_id, official
        if key not in self._matchers:
            try:
                names = read_names(self.of(db_id), self.links.get(db_id))
                self._matchers[key] = OfficialMatcher(names) if official else ExactMatcher(names)
            except KidpipeError:
                self._matchers[key] = None  # its golds fail too, which is what gets reported
        return self._matchers[key]

    def require_suite(self, db_ids: Collection[str] = ()) -> None:
        """Refuse a suite folder that isn't there, has databases for none of `db_ids`, or one of theirs that can't be used."""
        if self.suite is None:
            return
        fix = "name the folder that holds <db_id>/*.sqlite"
        if not self.suite.is_dir():
            raise KidpipeError("test suite missing", where=str(self.suite), fix=fix)
        if db_ids and not any(self.suite_databases(db_id) for db_id in db_ids):
            raise KidpipeError("the test suite has none of the data's databases", where=str(self.suite), fix=fix)
        found = [database for db_id in sorted(db_ids) for database in self.suite_databases(db_id)]
        if faults := [fault for database in found if (fault := database.fault)]:
            # A prediction would pass on it by not being tested.
            raise KidpipeError(
                f"{len(faults)} of {len(found)} databases of the test suite can't be used, the first: {faults[0].what}",
                where=faults[0].where,
                fix=faults[0].fix,
            )
