"""A student in a vLLM engine answers as transformers does with the weights that it was handed last."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.backends.vllm_student import VllmStudent
from tests.kidcore.models.backends.conftest import assert_same, engine_settings, random_requests

pytestmark = [pytest.mark.engine, pytest.mark.vllm]

PROMPTS = [request.token_ids.tolist() for request in random_requests(10, seed=14, shared=60)]
DRAWN = Sampling(1.0, 7)


@pytest.fixture(scope="module", params=["tied", "untied"])
def student(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "tied":
        return tiny_model
    config = Qwen2Config.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    folder = tmp_path_factory.mktemp("untied")
    torch.manual_seed(3)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(student: Path) -> Iterator[VllmStudent]:
    engine = VllmStudent(student, engine_settings(), dtype="float32", max_top_k=8, max_length=512, vocab_size=435)
    yield engine
    engine.close()


def test_answers_follow_the_weights(engine: VllmStudent, student: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    reference = TransformersBackend.around(model.eval(), batch_tokens=2048, max_length=512)
    seen, requests = [], random_requests(6, seed=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        engine.load_weights(model.state_dict())
        answers = [list(engine.generate(PROMPTS, 12, [], sampling)) for sampling in (None, DRAWN)]
        assert answers == [list(reference.generate(PROMPTS, 12, [], sampling)) for sampling in (None, DRAWN)]
        assert answers not in seen
        assert_same(list(engine.score(requests, 8)), list(reference.score(requests, 8)))
        seen.append(answers)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        # The engine has weights of its own, and keeps them while the student trains on.
        assert list(engine.generate(PROMPTS, 12, [])) == answers[0]


def test_an_answer_in_the_middle_is_dropped_for_new_weights(engine: VllmStudent, student: Path) -> None:
    weights = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).state_dict()
    engine.load_weights(weights)
    expected = list(engine.generate(PROMPTS, 12, []))
    next(engine.generate(PROMPTS, 12, []))
    engine.load_weights(weights)
    assert list(engine.generate(PROMPTS, 12, [])) == expected


def test_weights_of_another_model_are_refused(tiny_model: Path) -> None:
    engine = VllmStudent(tiny_model, engine_settings(), dtype="float32", max_top_k=8, max_length=512, vocab_size=435)
    with pytest.raises(KidpipeError, match=r"vLLM does not take the weights[\s\S]*train.rollout_backend = transformers"):
        engine.load_weights({"model.layers.0.self_attn.no_such.weight": torch.zeros(3)})
    engine.close()
