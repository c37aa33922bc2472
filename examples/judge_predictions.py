"""Verdicts on SQL that any program wrote: executed beside gold on a real database, read-only, in a process that can be killed.

python examples/judge_predictions.py DATABASE GOLD_SQL PREDICTED_SQL...
"""

# %% What is judged.
import sys
from pathlib import Path

import kidpipe

database, gold, *predicted = sys.argv[1:]

# %% One verdict after the other. A DELETE is refused, an endless query is stopped, and neither ends this program.
for sql in predicted:
    verdict = kidpipe.judge(sql, gold, Path(database))
    print(f"{verdict.kind:<9} ex_bag {verdict.ex_bag}  ex_set {verdict.ex_set}  {sql}")
