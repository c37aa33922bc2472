"""The address of a Ray cluster in, or nothing; a connection to it, or to one of our own on this machine, out."""

import os
import signal
import threading
from dataclasses import dataclass
from typing import Any

import ray

from kidcore.errors import KidpipeError
from kidcore.models.backends.quiet import quiet

_OBJECT_STORE_BYTES = 256 << 20
"""Shards go through files: little passes through Ray's own memory."""


@dataclass
class Cluster:
    """A connection to Ray."""

    nodes: int
    cpus: float
    gpus: float
    is_local: bool
    _is_ours: bool

    def close(self) -> None:
        """End the connection, and a cluster that was started for this build; one that was there before stays."""
        if self._is_ours and ray.is_initialized():
            ray.shutdown()


def connect(address: str, *, verbose: bool) -> Cluster:
    """Join the cluster at `address`, or start one on this machine where that is empty.

    A process that is connected already stays so.

    Raises:
        KidpipeError: nobody answers there, or not to us.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        before = signal.getsignal(signal.SIGTERM)
        _init(address, verbose)
        if threading.current_thread() is threading.main_thread():
            # Ray puts its own in the place of whatever the process had, and leaves it there.
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Cluster(nodes, resources.get("CPU", 1.0), resources.get("GPU", 0.0), not address, is_ours)


def _init(address: str, verbose: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        with quiet(verbose):
            ray.init(
                address=address or "local",
                log_to_driver=verbose,
                configure_logging=False,
                logging_level="INFO" if verbose else "ERROR",
                **own,
            )
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and its own, by what went wrong
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise KidpipeError(
            f"Ray does not answer: {lines[0]}" if address else f"Ray does not start: {lines[0]}",
            where=f"--ray {address}" if address else "engine.workers",
            fix="check the address (ray status on the head node), and RAY_AUTH_TOKEN or ~/.ray/auth_token on both sides"
            if address
            else "set engine.workers = 1 to build in one process",
        ) from error
