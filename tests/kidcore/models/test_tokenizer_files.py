"""What keys need of a tokenizer is found once for its files, and again when one of them changes."""

import os
import shutil
from pathlib import Path

import pytest

from kidcore.config.digests import FileDigests
from kidcore.models import tokenizer_files
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.models.tokenizers import tokenizer_digest


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_second_plan_loads_no_tokenizer(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "digests.json"
    first = TokenizerFiles(model, FileDigests(known)).remembered("digest", tokenizer_digest)
    assert first == tokenizer_digest(TokenizerFiles(model, FileDigests(None)).tokenizer)
    monkeypatch.setattr(tokenizer_files, "load_tokenizer", lambda path: pytest.fail(f"{path} was loaded"))
    again = TokenizerFiles(model, FileDigests(known))
    assert again.remembered("digest", tokenizer_digest) == first
    with (model / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    os.utime(model / "tokenizer_config.json", (1e9, 1e9))
    with pytest.raises(BaseException, match="was loaded"):
        TokenizerFiles(model, FileDigests(known)).remembered("digest", tokenizer_digest)
