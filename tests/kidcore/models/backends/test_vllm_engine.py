"""vLLM engines started and stopped: what they refuse, and how they leave the process."""

import gc
import logging
import multiprocessing
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from kidcore.errors import KidpipeError
from kidcore.models.backends import vllm_engine, vllm_rows
from kidcore.models.backends.base import EngineDied, ScoreRequest
from kidcore.models.backends.select import open_backend
from kidcore.models.backends.transformers import TransformersBackend
from tests.kidcore.models.backends.conftest import assert_same, engine_settings, open_vllm, random_requests, save_tiny_model

pytestmark = [pytest.mark.engine, pytest.mark.vllm]


def test_process_is_left_as_it_was(tiny_model: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    functions = torch.set_num_threads, torch.accelerator.synchronize, torch.accelerator.empty_cache
    expected = (
        random.Random(1).random(),
        np.random.RandomState(1).random(),
        torch.rand(1, generator=torch.Generator().manual_seed(1)),
    )
    backend = open_vllm(tiny_model)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected
    # And what computes in it is named.
    assert (backend.facts.name, backend.facts.device, backend.facts.dtype) == ("vllm", "cpu", "float32")
    assert backend.facts.version[0].isdigit()
    backend.close()
    assert (torch.set_num_threads, torch.accelerator.synchronize, torch.accelerator.empty_cache) == functions


def test_cache_that_fails_its_test_is_left_alone(
    tiny_model: Path, reference: TransformersBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="kidpipe"):
        backend = open_vllm(tiny_model, max_length=30)  # shorter than a block of the cache
    assert "scoring without vLLM's prefix cache" in caplog.text
    requests = [ScoreRequest(request.token_ids[:30], 20) for request in random_requests(8, seed=16, shared=25)]
    answers = list(backend.score(requests, 4))
    backend.close()
    assert_same(answers, list(reference.score(requests, 4)))
    assert backend.cached_tokens == 0


@pytest.mark.parametrize("backend", ["vllm", "auto"])
def test_a_model_that_vllm_refuses_is_an_error_with_the_way_out(tmp_path: Path, backend: str) -> None:
    """Heads of 16 are too narrow for vLLM's CPU attention. Where vLLM is installed, auto takes no other engine."""
    folder = save_tiny_model(tmp_path, heads=4)
    with pytest.raises(KidpipeError, match=r"vLLM cannot run the model[\s\S]*engine.backend = transformers"):
        open_backend(folder, engine_settings(backend=backend), max_top_k=4, max_length=64)


def test_two_engines_at_once(tiny_model: Path, tmp_path: Path, reference: TransformersBackend) -> None:
    """A student that fills holes and the teacher that scores them; closing one leaves the other at work."""
    first, second = open_vllm(tiny_model), open_vllm(save_tiny_model(tmp_path, seed=1))
    requests = random_requests(8, seed=17)
    expected = list(reference.score(requests, 4))
    assert_same(list(first.score(requests, 4)), expected)
    other = list(second.score(requests, 4))
    first.close()
    for before, after in zip(other, second.score(requests, 4), strict=True):
        np.testing.assert_array_equal(before.logprobs, after.logprobs)
    second.close()
    assert abs(other[0].logprobs - expected[0].logprobs).max() > 0.01


def test_cache_too_small_for_one_sequence_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, max_length=100_000)
    with pytest.raises(KidpipeError, match=r"vLLM cannot run the model: To serve at least one[\s\S]*raise engine.kv_cache_mib"):
        open_vllm(folder, max_length=100_000)


_SILENT = """
import sys
from kidcore.models.backends.select import open_backend
from kidcore.config.config import EngineSettings
from tests.kidcore.models.backends.conftest import random_requests
for is_last in (False, True):
    settings = EngineSettings(backend="auto", device="cpu", kv_cache_mib=32)
    backend = open_backend(sys.argv[1], settings, max_top_k=4, max_length=512)
    assert backend.name == "vllm"
    assert len(list(backend.score(random_requests(5, seed=0), 4))) == 5
    assert len(list(backend.generate([[5, 6, 7]], 4, []))) == 1
    if not is_last:
        backend.close()
"""


@pytest.mark.engine(seconds=20)
def test_engines_are_silent_closed_or_left_open(tiny_model: Path) -> None:
    """One that is closed, and one that the process ends with."""
    done = subprocess.run(
        [sys.executable, "-c", _SILENT, str(tiny_model)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_wanted_rows_leave_the_front_end(
    tiny_model: Path, reference: TransformersBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists that vLLM makes of whole prompts are made for other requests only, and for ours where the hook cannot be."""
    from vllm.logprobs import FlatLogprobs

    listed: list[int] = []
    append = FlatLogprobs.append_fast
    monkeypatch.setattr(FlatLogprobs, "append_fast", lambda self, *row: (listed.append(1), append(self, *row)))
    requests = random_requests(12, seed=3, shared=90)
    expected = list(reference.score(requests, 8))
    with caplog.at_level(logging.WARNING, logger="kidpipe"):
        backend = open_vllm(tiny_model)
        listed.clear()
        assert_same(list(backend.score(requests, 8)), expected)
        backend.close()
        assert not listed
        assert "scoring" not in caplog.text
        monkeypatch.setattr(vllm_rows, "_VERSION", "0.1")
        backend = open_vllm(tiny_model)
    assert "scoring through vLLM's own lists of log-probabilities, which is slower: vLLM is" in caplog.text
    assert_same(list(backend.score(requests, 8)), expected)
    backend.close()
    assert len(listed) > sum(len(request.token_ids) for request in requests) // 2


def test_a_hook_that_brings_other_numbers_is_not_used(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vllm_rows.last_rows

    def wrong(answer: object, count: int, width: int) -> vllm_rows.LastRows:
        found = rows(answer, count, width)
        shift = isinstance(answer, vllm_rows.LastRows)
        return vllm_rows.LastRows(found.ids, found.logprobs - np.float32(shift))

    monkeypatch.setattr(vllm_rows, "last_rows", wrong)
    with caplog.at_level(logging.WARNING, logger="kidpipe"):
        backend = open_vllm(tiny_model)
    backend.close()
    assert "which is slower: log-probabilities differ by 1 with and without" in caplog.text


def test_tokens_under_way_follow_what_the_engine_was_started_with(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on the memory for log-probabilities makes steps smaller than asked, in float32 more so than in bfloat16."""
    monkeypatch.setattr(vllm_engine, "_LOGPROBS_BYTES", 435 * 9 * 300)
    backend = open_vllm(tiny_model)
    assert backend._engine is not None
    assert backend._engine.step_tokens == 300
    assert backend._engine.capacity_tokens > 10_000
    assert backend._scoring(random_requests(40, seed=5), 4).tokens_in_flight == 300 * 4
    backend._engine.capacity_tokens = 640
    requests = random_requests(40, seed=5)
    longest = max(len(request.token_ids) for request in requests)
    assert backend._scoring(requests, 4).tokens_in_flight == 640 - longest - 32
    backend.close()


@pytest.mark.engine(seconds=40)
@pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning")  # vLLM closes no context of an engine with its own process
def test_an_engine_whose_process_is_killed_is_an_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs it has a process of its own, and vLLM waits for its answers for ever."""
    monkeypatch.setattr(vllm_engine, "_engine_in_this_process", lambda _asked: nullcontext())
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    backend = open_vllm(tiny_model)
    (core,) = (child for child in multiprocessing.active_children() if "EngineCore" in child.name)
    answers = backend.score(random_requests(2000, seed=0), 8)
    next(answers)
    core.kill()
    with pytest.raises(EngineDied, match="the process of the vLLM engine ended") as error:
        list(answers)
    assert "run the same command again" in error.value.fix
    with pytest.raises(EngineDied):
        list(backend.score(random_requests(1, seed=0), 8))
    backend.close()
    del error, answers, backend
    gc.collect()  # here, where the warning is expected, and not in whichever test comes next
