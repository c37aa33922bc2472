"""A shard made under other settings in; the one that is wanted out, without asking a model.

Of a teacher's scores fewer ids are kept; predictions that are stored fill the holes by another rule.
"""

from collections.abc import Callable

import pyarrow as pa

from kidcore.config.stage_settings import PredictSettings
from kidcore.store.graph import Output, Values
from kidcore.store.store import Shard, Store
from pipeline.cut import cut_from
from pipeline.derivations import WIDTH
from pipeline.refill import refill


def derive(store: Store, source: Shard, settings: Values, view: int, read: Callable[[str], pa.Table]) -> Output:
    """What the stage would make under `settings`, from `source` and from its inputs, which `read` gives by name.

    Raises DamagedShard.
    """
    if source.stage != "predict":
        return cut_from(store, source, settings[WIDTH])
    settings = {name.removeprefix("predict."): value for name, value in settings.items() if name.startswith("predict.")}
    return refill(PredictSettings(**settings), store.read(source), read("ingest"), view)
