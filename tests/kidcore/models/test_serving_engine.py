"""A student asked through vLLM's chat interface gets the tokens of training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kidcore.config.config import IngestSettings
from kidcore.models.prompts import PromptBuilder
from kidcore.models.serving import ServedPrompt, write_serving_files
from kidcore.models.tokenizers import load_tokenizer

pytest.importorskip("vllm")

SCHEMA = "database: d\nT1: stu_id int, b text\n"
# In a process of its own: vLLM's chatter and warnings stay there.
ASK = """
import json, sys
from vllm import LLM, SamplingParams

engine = LLM(sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True, kv_cache_memory_bytes=1 << 26, seed=0)
more = {"chat_template_kwargs": {"evidence": "a hint"}, "use_tqdm": False}
(said,) = engine.chat(json.loads(sys.argv[2]), SamplingParams(max_tokens=1), **more)
print("ids", json.dumps(said.prompt_token_ids))
"""


@pytest.mark.engine(seconds=25)
def test_vllm_reads_a_chat_message_as_training_wrote_it(tiny_model: Path, tmp_path: Path) -> None:
    builder = PromptBuilder.of(IngestSettings(system="Be exact."), load_tokenizer(tiny_model))
    write_serving_files(builder, tiny_model, tmp_path / "beside")
    shutil.copytree(tiny_model, tmp_path / "student")
    shutil.copytree(tmp_path / "beside", tmp_path / "student", dirs_exist_ok=True)
    messages = json.dumps(ServedPrompt(SCHEMA, "how many T1_2 in 2014?").messages())
    # Its engine in the same process: another one would import everything once more.
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [sys.executable, "-c", ASK, str(tmp_path / "student"), messages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ids "))
    asked = builder.definition.template.question("how many T1_2 in 2014?", "a hint", "sqlite")
    assert json.loads(line.removeprefix("ids ")) == builder.schema_ids(SCHEMA) + builder.question_ids(asked)
