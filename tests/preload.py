"""What the processes of tests.forks find imported: all that building, training, evaluating and the command line load."""

# ruff: noqa: F401, E402
import atexit
import gc
import os

# What is imported lives as long as the process: no garbage collection need look at it.
gc.disable()

import torch.distributed.elastic.multiprocessing
import torch.distributed.fsdp
import torch.distributed.launcher.api
import torch.distributed.run
import transformers.models.auto.modeling_auto
import transformers.models.qwen2.modeling_qwen2

import kidcore.models.backends.transformers
import kidpipe.cli
import kidpipe.commands.build
import kidpipe.commands.evaluate
import kidpipe.commands.store
import kidpipe.commands.train
import kidpipe.study.trial
import pipeline.build
import pipeline.ingest
import pipeline.mask
import pipeline.outcome
import pipeline.predict
import pipeline.rewrite
import pipeline.score
import tests.train.together
import train.trainer
from tests.conftest import without_waiting

os.fsync = without_waiting
gc.collect()
gc.freeze()
gc.enable()
# Until its end, or libraries say that it leaks.
atexit.register(gc.unfreeze)
