"""A text-to-SQL data set on disk in, a list of examples out."""

from dataclasses import dataclass
from pathlib import Path

from kidpipe.config import DataSettings


@dataclass(frozen=True)
class Example:
    """One question with its gold SQL. `example_id` is stable: it survives appending to the file."""

    example_id: str
    db_id: str
    question: str
    gold_sql: str
    evidence: str = ""
    difficulty: str = ""


@dataclass(frozen=True)
class DataSet:
    """The examples of one split and the folder of their databases."""

    examples: list[Example]
    databases: Path

    def database(self, db_id: str) -> Path:
        """The SQLite file of `db_id`, whether or not it exists."""
        return self.databases / db_id / f"{db_id}.sqlite"


def read(settings: DataSettings, split: str) -> DataSet:
    """Read split `train` or `dev` in the official layout that `settings` names.

    Raises KidpipeError for a missing folder or file, malformed JSON (with its line), or a missing key (with its row).
    """
    raise NotImplementedError(settings, split)
