"""A model's answers, kept: interrupted anywhere they end as if nothing had happened, and are never another model's."""

import errno
import json
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import islice
from pathlib import Path

import pytest

from eval import answers
from eval.answers import KeptAnswers
from kidcore.advance import Advance, unheard
from kidcore.atomic import append_whole
from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend, Sampling
from kidcore.models.backends.select import open_backend

MADE_BY = {"model": "local:1", "dtype": "float32", "longest": 512}
PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7, 8], [10] * 9, [11, 12], [13]]


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> Iterator[Backend]:
    backend = open_backend(tiny_model, EngineSettings(backend="transformers"), max_top_k=16, max_length=512)
    yield backend
    backend.close()


class _Counted:
    """An engine that counts what it is asked, and dies after some answers."""

    def __init__(self, backend: Backend, dies_after: int = 1000) -> None:
        self.max_length, self.facts = backend.max_length, backend.facts
        self.asked: list[list[int]] = []
        self._backend, self._dies_after = backend, dies_after

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling | None = None,
        advance: Advance = unheard,
    ) -> Iterator[list[int]]:
        self.asked += [list(prompt) for prompt in prompts]
        yield from islice(self._backend.generate(prompts, max_new_tokens, stop_ids, sampling, advance), self._dies_after)
        if self._dies_after < len(prompts):
            raise KeyboardInterrupt

    def close(self) -> None:
        pass


def _kept(path: Path, engine: _Counted | None, **made_by: object) -> KeptAnswers:
    def start() -> Backend:
        assert engine is not None, "no engine is needed"
        return engine  # type: ignore[return-value]

    return KeptAnswers(path, MADE_BY | made_by, start)


@pytest.mark.parametrize("dies_after", range(len(PROMPTS)))
@pytest.mark.parametrize("sampling", [None, Sampling(1.0, 3, 1)])
def test_interrupted_after_any_answer_it_asks_the_rest_and_ends_in_the_same_bytes(
    backend: Backend, tmp_path: Path, sampling: Sampling | None, dies_after: int
) -> None:
    direct = list(backend.generate(PROMPTS, 8, [1], sampling))
    assert list(_kept(tmp_path / "whole", _Counted(backend)).generate(PROMPTS, 8, [1], sampling)) == direct
    with pytest.raises(KeyboardInterrupt):
        list(_kept(tmp_path / "cut", _Counted(backend, dies_after)).generate(PROMPTS, 8, [1], sampling))
    rest = _Counted(backend)
    again = _kept(tmp_path / "cut", rest)
    done = 0

    def advance(finished: int, _under_way: int = 0, /) -> None:
        nonlocal done
        done += finished

    assert list(again.generate(PROMPTS, 8, [1], sampling, advance)) == direct
    assert rest.asked == PROMPTS[dies_after:]
    assert (again.reused, done) == (dies_after, len(PROMPTS))
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    never = _kept(tmp_path / "cut", None)
    assert list(never.generate(PROMPTS[::-1], 8, [1], sampling)) == direct[::-1]
    assert (never.max_length, never.engine) == (backend.max_length, str(backend.facts))


@pytest.mark.parametrize(
    "left", ['{"prompt": "ab', "", "\x00\x00\n", "[1]\nnull\n", '{"prompt": "x"}\n', '{"prompt": [], "answers": 1}\n']
)
def test_what_a_dead_writer_left_is_passed_over(backend: Backend, tmp_path: Path, left: str) -> None:
    path = tmp_path / "answers"
    direct = list(_kept(path, _Counted(backend)).generate(PROMPTS[:2], 8, []))
    path.write_text(path.read_text() + left)
    rest = _Counted(backend)
    assert list(_kept(path, rest).generate(PROMPTS[:3], 8, []))[:2] == direct
    assert rest.asked == [PROMPTS[2]]
    list(_kept(path, None).generate(PROMPTS[:3], 8, []))


def test_a_first_line_that_is_no_such_line_is_another_file(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    for content in (b"", b"\n", b"{}", b"\xff\xfe", b"[]\n"):
        path.write_bytes(content)
        asked = _Counted(backend)
        list(_kept(path, asked).generate(PROMPTS, 8, []))
        assert asked.asked == PROMPTS


def test_other_models_and_other_questions_are_asked(backend: Backend, tmp_path: Path) -> None:
    path, draw = tmp_path / "answers", Sampling(1.0, 3, 2)

    def asks(*, max_new: int = 8, stops: Sequence[int] = (), sampling: Sampling | None = None, **made_by: object) -> bool:
        engine = _Counted(backend)
        list(_kept(path, engine, **made_by).generate(PROMPTS, max_new, stops, sampling))
        return bool(engine.asked)

    assert asks()
    assert not asks()
    assert asks(max_new=4)
    assert asks(stops=[1])
    assert asks(sampling=draw)
    assert asks(sampling=Sampling(1.0, 4, 2))
    assert asks(sampling=Sampling(0.5, 3, 2))
    assert asks(sampling=Sampling(1.0, 3, 3))
    assert not any([asks(), asks(max_new=4), asks(stops=[1]), asks(sampling=draw)]), "all of them are kept beside each other"
    assert asks(model="local:2")
    assert asks(), "one file is of one model"
    assert asks(dtype="bfloat16")


def test_another_way_to_answer_asks_again(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers"
    list(_kept(path, _Counted(backend)).generate(PROMPTS, 8, []))
    monkeypatch.setattr("eval.answers._VERSION", 10_000)
    asked = _Counted(backend)
    list(_kept(path, asked).generate(PROMPTS, 8, []))
    assert asked.asked == PROMPTS


def test_samples_come_back_by_prompt_and_equal_prompts_are_asked_once(backend: Backend, tmp_path: Path) -> None:
    draw = Sampling(1.0, 3, 3)
    twice = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    engine = _Counted(backend)
    found = list(_kept(tmp_path / "answers", engine).generate(twice, 8, [], draw))
    assert engine.asked == PROMPTS[:2]
    assert found == list(backend.generate(twice, 8, [], draw))
    assert found == list(_kept(tmp_path / "answers", None).generate(twice, 8, [], draw))


def test_a_full_disk_is_said_and_what_was_kept_stays(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, left = tmp_path / "answers", [2]

    def append(file: FileIO, text: bytes) -> None:
        left[0] -= 1
        append_whole(file, text if left[0] >= 0 else text[:5])
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "append_whole", append)
        with pytest.raises(KidpipeError, match="the disk is full"):
            list(_kept(path, _Counted(backend)).generate(PROMPTS, 8, []))
    rest = _Counted(backend)
    assert list(_kept(path, rest).generate(PROMPTS, 8, [])) == list(backend.generate(PROMPTS, 8, []))
    assert rest.asked == PROMPTS[2:]


def test_two_at_once_leave_whole_lines(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    one, other = (_kept(path, _Counted(backend)).generate(PROMPTS, 8, []) for _ in range(2))
    assert [*zip(one, other, strict=True)] == [(answer, answer) for answer in backend.generate(PROMPTS, 8, [])]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    list(_kept(path, None).generate(PROMPTS, 8, []))
