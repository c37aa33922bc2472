"""A CSV of questions with SQL and one database in; a data folder, a check of every gold SQL, and a first student out.

python examples/own_csv.py QUESTIONS.csv DATABASE FOLDER STUDENT
"""

# %% The folder, made by the command: which column holds what is guessed and shown, and a share is held out.
import subprocess
import sys

import kidpipe

questions, database, folder, student = sys.argv[1:5]
more = dict(text.split("=", 1) for text in sys.argv[5:])
file = f"{folder}.toml"
made = [sys.executable, "-m", "kidpipe", "init", file, "--questions", questions, "--database", database, "--out", folder]
subprocess.run(made, check=True)

# %% Every gold SQL is tried; what fails is set aside with its reason.
project = kidpipe.Project({"data.path": folder, "data.layout": "jsonl", "train.student": student, **more})
built = project.build(until="ingest")
print("set aside:", built.counts["ingest"].get("set_aside", {}))

# %% Supervised fine-tuning needs no teacher: a start to improve on, and something to ask.
run = project.train({"train.method": "sft"})
print("student:", run.best)
