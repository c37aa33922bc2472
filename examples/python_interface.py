"""kidpipe from Python, as in a notebook: build, train, evaluate, look.

python examples/python_interface.py DATA TEACHER STUDENT
"""

# %% Settings are those of kidpipe.toml; anything that is not named has its default.
import sys

import polars as pl

import kidpipe

data, teacher, student = sys.argv[1:4]
more = dict(text.split("=", 1) for text in sys.argv[4:])
project = kidpipe.Project({"data.path": data, "teacher.model": teacher, "train.student": student, **more})

# %% Imperfect data, made once. A second call finds everything done.
built = project.build()
print("set aside:", built.counts["ingest"].get("set_aside", {}))

# %% What the teacher put into the holes, as a polars frame.
frame = project.frame("rewrite", ["example_id", "view", "num_masked", "num_rewritten", "imperfect_sql"])
print(frame.sort("num_rewritten", descending=True).head(3))

# %% Two students of the same data.
runs = {method: project.train({"train.method": method}) for method in ("sft", "kid")}

# %% Their SQL, executed on the held-out questions.
for method, run in runs.items():
    report = project.evaluate(run.best, name=method)
    print(f"{method}: ex_bag {report.score():.1%}")
    wrong = report.verdicts.filter(pl.col("kind") != "correct").select("question", "prediction", "message")
    print(wrong.head(3))
