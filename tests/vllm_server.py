"""A model folder in, a real `vllm serve` of it on the loopback out, gone when it is left."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

# The module behind `vllm serve`: the command itself asks for the version of a distribution called vllm, and the CPU's has another
# name. Should the tests die without a word, the server is told to end, and ends its engine with it.
_START = """
import ctypes, runpy, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
runpy.run_module("vllm.entrypoints.launchers.api_server.entry", run_name="__main__", alter_sys=True)
"""
_PATIENCE_S = 900
"""Longer than the start takes on the slowest machine: it only keeps a server that hangs from holding the tests for ever."""


@dataclass(frozen=True)
class VllmServer:
    """A server that answers."""

    url: str

    def load(self, folder: Path) -> None:
        """Put the weights in `folder` into the place of those that it has."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        httpx2.post(f"{self.url}/collective_rpc", json=body, timeout=_PATIENCE_S).raise_for_status()
        httpx2.post(f"{self.url}/reset_prefix_cache", timeout=_PATIENCE_S).raise_for_status()


@contextmanager
def serving(folder: Path, log: Path, *, max_length: int, max_logprobs: int) -> Iterator[VllmServer]:
    """A server with the model in `folder`, called `teacher`, in float32; what it prints is in `log`."""
    for _ in range(3):  # another process may take the port before the server does
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {"model": folder, "served-model-name": "teacher", "host": "127.0.0.1", "port": port, "dtype": "float32"}
        # vLLM wants room for one token more than the longest sequence.
        options |= {"max-logprobs": max_logprobs, "max-model-len": max_length + 1}
        options |= {"kv-cache-memory-bytes": 64 << 20, "block-size": 32}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, *arguments, "--enforce-eager"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ
                | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1", "VLLM_NO_USAGE_STATS": "1"}
                | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )
        try:
            if _is_up(process, f"http://127.0.0.1:{port}/health"):
                yield VllmServer(f"http://127.0.0.1:{port}")
                return
        finally:
            _end(process)
        if "address already in use" not in log.read_text(errors="replace").lower():
            break
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _is_up(process: "subprocess.Popen[bytes]", health: str) -> bool:
    """Wait until it answers; False where it ended instead."""
    over = threading.Event()
    guard = threading.Timer(_PATIENCE_S, over.set)
    guard.start()
    try:
        while process.poll() is None and not over.is_set():
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(health, timeout=10).is_success:
                    return True
            over.wait(0.1)
        return False
    finally:
        guard.cancel()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End it with all that it started; a group lives as long as one of its processes does."""
    for number, patience_s in ((signal.SIGTERM, 20), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
