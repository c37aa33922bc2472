"""A build's context in; the workers that its settings ask for, on this machine or on a cluster, and their driver, out."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid
from kidcore.store.store import Store
from pipeline.context import Context
from pipeline.workers.cluster import Cluster, connect
from pipeline.workers.parallel import Crew, ParallelRunner
from pipeline.workers.pool import Kind, WorkerPool
from pipeline.workers.setup import BuildSetup, model_of, threads_asked
from pipeline.workers.wanted import num_workers
from pipeline.workers.worker import Place


def parallel_runner(
    grid: Grid, store: Store, progress: bool, context: Context, check_ingested: Callable[[], None]
) -> ParallelRunner:
    """The driver of a build with several engines. Raises KidpipeError where Ray or the GPUs for them can't be had."""
    context.release_engine()  # what answered the question of ingest.chat would keep a GPU from the workers
    cluster = connect(context.config.engine.ray, verbose=context.verbose)
    try:
        crew = _crew(context, store, cluster)
    except BaseException:
        cluster.close()
        raise
    return ParallelRunner(grid, store, progress, crew, context.examples, check_ingested, cluster.close)


def _crew(context: Context, store: Store, cluster: Cluster) -> Crew:
    config = context.config
    per_engine = _gpus_per_engine(context, cluster)
    engines, cores = num_workers(config.engine, cluster.gpus if per_engine else 0), max(1, int(cluster.cpus))
    if cluster.is_local and engines * per_engine > cluster.gpus:
        raise KidpipeError(
            f"{engines} engines need {engines * per_engine} GPUs, and this machine has {cluster.gpus:.0f}",
            where="engine.workers, engine.tensor_parallel",
            fix=f"set engine.workers = {max(1, int(cluster.gpus) // per_engine)}, or name a cluster: --ray HOST:PORT",
        )
    sql_workers = max(1, min(engines, cores))
    setup = BuildSetup.of(context, config.sandbox.workers or max(1, cores // sql_workers))
    root = store.root.absolute()
    engine = Place(
        Path.cwd(),
        root,
        store.lock_mark,
        threads=threads_asked(),
        neighbours=-(-engines // cluster.nodes),
        uses_gpu=per_engine > 0,
        host=os.uname().nodename,
    )
    places: dict[Kind, Place] = {"engine": engine, "sql": replace(engine, threads=1, uses_gpu=False)}
    return Crew(WorkerPool(places, setup.open, per_engine), engines, sql_workers, partial(model_of, config))


def _gpus_per_engine(context: Context, cluster: Cluster) -> int:
    """GPUs that an engine takes for itself: none where the model is behind a URL, or runs on the CPU."""
    engine = context.config.engine
    is_served = context.teacher is not None and context.teacher.served is not None
    return engine.tensor_parallel if engine.device != "cpu" and cluster.gpus and not is_served else 0
