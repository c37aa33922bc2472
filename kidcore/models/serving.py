"""A student's folder and its prompts in; the files out with which other programs give the tokens of training.

AutoTokenizer (transformers, vLLM) builds some tokenizers anew from the model's type, and then splits text in other places than
tokenizer.json says; and a chat message reaches a model through its chat template. Both are tried before training starts.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError, first_line
from kidcore.models.prompts import PROMPT_FOLDER, PromptBuilder
from kidcore.models.templates.template import QUESTION_FILE
from kidcore.models.templates.variables import PROBE
from kidcore.models.tokenizers import eos_id, first_difference

_LOG = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.tiktoken",
    "*.model",
)
"""What of a model's folder is its tokenizer."""
_CONFIG = "tokenizer_config.json"
_CODE = "tokenization_student.py"
# AutoTokenizer ignores the class that tokenizer_config.json names for some types of model (Qwen2's among them), but not where it
# names code. Without trust_remote_code the code is passed over and the class is taken; with it, this is what is loaded.
_CODE_TEXT = '''"""The tokenizer as tokenizer.json has it."""

from transformers import PreTrainedTokenizerFast


class StudentTokenizer(PreTrainedTokenizerFast):
    """Nothing of its own: AutoTokenizer would rebuild the tokenizer of this type of model with other rules."""
'''


@dataclass(frozen=True)
class ServedPrompt:
    """One prompt as a server gets it: a system message with the schema and a user message with the question."""

    schema: str
    question: str

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.schema}, {"role": "user", "content": self.question}]


def write_serving_files(
    builder: PromptBuilder, model: Path, folder: Path, asked: Sequence[ServedPrompt] = (), end: int | None = None
) -> None:
    """Fill `folder` with what is to lie beside the weights of a student trained from `model`.

    Args:
        builder: of the prompts of training, with the tokenizer of training.
        asked: prompts of the data set, on which the chat template is tried beside some of our own.
        end: the token that answers end with in training; None = the tokenizer's end of sequence, which in some chats it is not.

    Raises:
        KidpipeError: AutoTokenizer can't be made to give the ids of training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        trial = Path(temporary)
        shutil.copyfile(model / "config.json", trial / "config.json")
        for path in tokenizer_files(model):
            shutil.copyfile(path, trial / path.name)
        _require_same_ids(builder.tokenizer, model, trial, folder)
        wrong = None
        for spaces in _SPACES:
            template = chat_template(builder, spaces)
            (trial / "chat_template.jinja").write_text(template, encoding="utf-8")
            if (wrong := _first_wrong(builder, trial, [*asked, *_OWN])) is None:
                _put_template(folder, trial, template)
                break
        else:
            _LOG.warning(
                "no chat template is saved with the student: this tokenizer splits a whole prompt otherwise than its pieces "
                "(%s); ask it through kidpipe ask, or with token ids",
                wrong,
            )
    builder.save(folder / PROMPT_FOLDER)
    ends = [eos_id(builder.tokenizer)]
    _write_generation(ends if end is None or end in ends else [end, *ends], model, folder)


def tokenizer_files(model: Path) -> list[Path]:
    """The files of a model's tokenizer."""
    return [path for pattern in TOKENIZER_FILES for path in sorted(model.glob(pattern)) if path.is_file()]


def chat_template(builder: PromptBuilder, spaces: tuple[str, str] = ("", "")) -> str:
    """A chat template that writes the prompts of `builder`.

    A system message is the schema and the last user message the question, with `evidence` as a variable of the template; a user
    message alone is the whole prompt, as `kidpipe prompt` prints it.

    Args:
        spaces: what to write before the schema and before the question besides.
    """
    definition = builder.definition
    schema = definition.template.schema(PROBE)
    end = schema[len(schema.rstrip()) :]
    before = builder.leading_text + spaces[0] + definition.frame.before
    return (
        '{%- set said = namespace(schema="", text="") -%}'
        "{%- for message in messages -%}"
        '{%- if message.role == "system" -%}{%- set said.schema = message.content -%}'
        '{%- elif message.role == "user" -%}{%- set said.text = message.content -%}{%- endif -%}'
        "{%- endfor -%}"
        '{%- set question = said.text.split() | join(" ") -%}'
        '{%- set evidence = (evidence | default("")).split() | join(" ") -%}'
        '{%- set dialect = dialect | default("sqlite") -%}'
        f"{{{{- {_literal(before)} -}}}}"
        "{%- if said.schema -%}"
        f"{{{{- said.schema.rstrip() + {_literal(end + spaces[1] + definition.frame.between)} }}}}"
        f"{definition.template.files[QUESTION_FILE]}{{{{ '' }}}}"
        "{%- else -%}{{- said.text -}}{%- endif -%}"
        f"{{{{- {_literal(definition.frame.after)} -}}}}"
    )


# Sentencepiece's tokenizers begin each text they are given with a space, the pieces of a prompt too; within a whole prompt it
# has to be written.
_SPACES = (("", ""), ("", " "), (" ", " "), (" ", ""))


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_OWN = (
    ServedPrompt(PROBE.db_id, "How many are there?"),
    ServedPrompt("database: d\nt: a int, b text\n", "Isn't it 21.5?  Łódź 数据"),
    ServedPrompt("CREATE TABLE t (a INT);\n", "list 'all' of them; name, year"),
)


def _first_wrong(builder: PromptBuilder, folder: Path, asked: Sequence[ServedPrompt]) -> str | None:
    """The first question whose chat message does not give the ids of training."""
    from transformers import AutoTokenizer  # takes seconds to load

    served = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    end = builder.definition.template.schema(PROBE)
    end = end[len(end.rstrip()) :]
    for prompt in asked:
        schema = prompt.schema.rstrip() + end
        text = builder.definition.template.question(prompt.question, "", "sqlite")
        expected = builder.schema_ids(schema) + builder.question_ids(text)
        try:
            got = served.apply_chat_template(prompt.messages(), tokenize=True, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template of the user's own may raise anything within another program's environment
            return f"{prompt.question!r}: {error}"
        if list(got) != expected:
            return repr(prompt.question)
    return None


def _require_same_ids(tokenizer: Any, model: Path, trial: Path, folder: Path) -> None:
    """Write what it takes until AutoTokenizer gives the ids of `tokenizer`."""
    from transformers import AutoTokenizer  # takes seconds to load

    config = trial / _CONFIG
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    difference: str | None = ""
    if _CODE.removesuffix(".py") in str(settings.get("auto_map")):
        _write_code(trial, folder)  # a student that starts from a student
    for change in ({}, {"tokenizer_class": "PreTrainedTokenizerFast"}, _OWN_CODE):
        if change:
            config.write_text(json.dumps(settings | change, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            shutil.copyfile(config, folder / _CONFIG)
        if change is _OWN_CODE:
            _write_code(trial, folder)
        try:
            difference = first_difference(tokenizer, AutoTokenizer.from_pretrained(str(trial), local_files_only=True))
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
            difference = first_line(error)
        if difference is None:
            return
    raise KidpipeError(
        f"AutoTokenizer gives other tokens than training used: {difference}",
        where=str(model),
        fix="save the model with a tokenizer that AutoTokenizer loads unchanged: otherwise the student answers badly elsewhere",
    )


def _write_code(*folders: Path) -> None:
    for folder in folders:
        (folder / _CODE).write_text(_CODE_TEXT, encoding="utf-8")


_OWN_CODE: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "auto_map": {"AutoTokenizer": [None, f"{_CODE.removesuffix('.py')}.StudentTokenizer"]},
}


# fmt: off
_SHAPING = (
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "sequence_bias", "exponential_decay_length_penalty", "min_length", "min_new_tokens", "num_beams", "num_beam_groups",
    "diversity_penalty", "penalty_alpha", "guidance_scale", "watermarking_config",
)
# fmt: on
"""What in generation_config.json makes greedy answers others than the model's own."""


def _write_generation(wanted: list[int], model: Path, folder: Path) -> None:
    """Defaults of generating that leave greedy answers as `kidpipe eval` has them, where the start's do not."""
    path, config = model / "generation_config.json", model / "config.json"
    try:
        found = json.loads((path if path.is_file() else config).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return  # loading the student says what is wrong with it
    settings = found if path.is_file() else {name: found[name] for name in _ENDS if found.get(name) is not None}
    named = settings.get("eos_token_id")
    ends = named if isinstance(named, list) else [] if named is None else [named]
    kept = {name: value for name, value in settings.items() if name not in _SHAPING or not value}
    if missing := [end for end in wanted if end not in ends]:
        kept["eos_token_id"] = missing + ends
    if kept != settings:
        (folder / path.name).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _put_template(folder: Path, trial: Path, template: str) -> None:
    """The template as a file of its own, which comes before one in tokenizer_config.json; older readers know the latter only."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = trial / _CONFIG
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    settings["chat_template"] = template
    (folder / _CONFIG).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
