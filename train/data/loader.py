"""A Dataset in; the steps of a run out, in order, made ahead of time by worker processes.

Of n workers, the i-th makes every n-th step from the i-th on, so the sequence is the same for any n. Workers see files and
arrays only, never a GPU, and end when the process that started them ends, however it ends.
"""

import io
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kidcore.config.processes import usable_cores
from kidcore.errors import KidpipeError
from train.data.dataset import Dataset
from train.data.examples import TrainingExample

T = TypeVar("T")
_START = (
    "import gc, sys; sys.path[:] = sys.argv[2:]; gc.disable(); from train.data.loader import work; gc.freeze(); gc.enable(); "
    "work(int(sys.argv[1]))"
)
"""Nothing that an import makes is garbage, and looking for some takes a quarter of the time."""
_AHEAD = 2
"""Steps kept ready beside the one that each worker holds: more would only cost memory."""


class Loader:
    """Worker processes, started at once (they take seconds to start) and put to work by `steps`."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._workers: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._ready: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._is_closed = threading.Event()
        # A forked child would inherit CUDA's state and locks that other threads hold; multiprocessing's spawn would import
        # the whole main program again. A session of its own keeps Ctrl-C, which the trainer answers, away from it.
        for _ in range(num_workers):
            here, there = Pipe()
            command = [sys.executable, "-c", _START, str(there.fileno()), *sys.path]
            self._workers.append((subprocess.Popen(command, pass_fds=[there.fileno()], start_new_session=True), here))
            # Else this process would keep the pipe open when the worker is gone.
            there.close()

    def steps(self, dataset: Dataset, first: int, stop: int, make: Callable[[list[TrainingExample]], T]) -> Iterator[T]:
        """What `make` makes of the examples of each step from `first` (counted from 0) to before `stop`."""
        if not self._workers:
            yield from map(make, islice(dataset.steps(first), stop - first))
            return
        for number, (_, connection) in enumerate(self._workers):
            connection.send((dataset, first + number, stop, len(self._workers), make))
        threading.Thread(target=self._receive, args=(stop - first,), daemon=True).start()
        for _ in range(stop - first):
            item = self._ready.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def _receive(self, count: int) -> None:
        """Take the steps from the workers in turn. Unpickling a step here costs the training loop nothing."""
        for number in range(count):
            process, connection = self._workers[number % len(self._workers)]
            try:
                item = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                code = process.wait()
                item = KidpipeError(
                    f"a loader worker died with exit code {code}",
                    where="the kernel ends processes where memory runs out" if code == -signal.SIGKILL else "",
                    fix="run the same command again with --set train.loader_workers=0: it continues from the newest checkpoint",
                )
            except Exception as error:  # whatever unpickling raises: the training loop would wait for this thread for ever
                item = error
            while not self._is_closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_closed.set()
        for process, _ in self._workers:
            process.terminate()
        for process, connection in self._workers:
            process.wait()
            connection.close()


def choose_workers(asked: int, processes: int) -> int:
    """The number asked for; -1 = two where each of this machine's training `processes` has four cores, else none.

    With fewer, workers would take their time from the training itself.
    """
    if asked >= 0:
        return asked
    return 2 if usable_cores() // processes >= 4 else 0


def work(descriptor: int) -> None:
    """What a worker does: take a job from the pipe `descriptor`, and send the steps that are its own."""
    connection: Connection = Connection(descriptor)
    torch.set_num_threads(1)
    try:
        dataset, first, stop, every, make = connection.recv()
        for examples in islice(dataset.steps(first, every), len(range(first, stop, every))):
            connection.send_bytes(_dump(make(examples)))
        # The pipe stays open until the trainer has read it all.
        connection.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except KidpipeError as error:
        connection.send_bytes(pickle.dumps(error))
    except Exception:
        connection.send_bytes(pickle.dumps(RuntimeError(traceback.format_exc())))


def _dump(value: object) -> bytes:
    """Pickled with tensors as plain arrays: torch would share each through a file descriptor, of which there are few."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _tensor, (value.numpy(),)
        return NotImplemented


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(array)
