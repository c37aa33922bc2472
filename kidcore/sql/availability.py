"""Examples in; which of their databases can't be read, out, before anything expensive. None at all that can is an error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kidcore.errors import KidpipeError
from kidcore.sql.datasets import DataSet, Example

_SHOWN = 5


@dataclass(frozen=True)
class Lacking:
    """What can't be read of the databases that examples are about."""

    examples: Mapping[str, int]
    """By db_id of those that can't be read, how many examples are about it."""
    num_databases: int
    num_examples: int

    def __str__(self) -> str:
        shown = ", ".join(list(self.examples)[:_SHOWN]) + (", ..." if len(self.examples) > _SHOWN else "")
        return f"{len(self.examples)} of {self.num_databases} databases can't be read ({shown})"


def lacking_databases(dataset: DataSet, examples: Sequence[Example]) -> Lacking | None:
    """What can't be read, None where everything can.

    Raises:
        KidpipeError: not one can be read; it names the paths that were looked at.
    """
    return lacking_of(dataset, Counter(example.db_id for example in examples if not example.fault), len(examples))


def lacking_of(dataset: DataSet, asked: Mapping[str, int], num_examples: int) -> Lacking | None:
    """The same of `num_examples` examples, of which so many without a fault are `asked` of each database."""
    faults = {db_id: fault for db_id in sorted(asked) if (fault := dataset.database(db_id).fault)}
    if not faults:
        return None
    found = Lacking({db_id: asked[db_id] for db_id in faults}, len(asked), num_examples)
    if len(faults) < len(asked):
        return found
    shown = list(faults.items())[:_SHOWN]
    looked = ", ".join(f"{fault.where} ({fault.what})" for _db_id, fault in shown)
    raise KidpipeError(
        f"none of the {len(asked)} databases can be read: {', '.join(db_id for db_id, _fault in shown)}: {shown[0][1].what}",
        where=f"looked at {looked}" + (f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""),
        fix=next(
            (fault.fix for _db_id, fault in shown if fault.fix.startswith("there is")),  # what was looked for lies elsewhere
            "set data.databases to the folder that holds <db_id>/<db_id>.sqlite or .duckdb",
        ),
    )
