"""What a chat template writes around a prompt, whatever kind of template it is, and what it is refused for."""

from datetime import datetime
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kidcore.errors import KidpipeError
from kidcore.models.templates.chat import Frame, answer_end_text, asks_for_the_time, chat_frame, fixed_moment

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DAY = "2024-07-26"


class Tokenizer:
    """As much of a tokenizer as writes messages with a chat template."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool, **variables: Any) -> str:
        assert not tokenize
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = self._refuse
        return environment.from_string(self.chat_template or "").render(messages=messages, **variables)

    @staticmethod
    def _refuse(message: str) -> str:
        raise ValueError(message)


def frame(template: str | None, system: str = "", date: str = DAY, **arguments: Any) -> Frame:
    return chat_frame(Tokenizer(template), system, arguments, date)


def test_the_frame_is_what_stands_before_between_and_after() -> None:
    assert frame(CHATML) == Frame("<|im_start|>user\n", "", "<|im_end|>\n<|im_start|>assistant\n")
    system = frame(CHATML, "You write SQL.")
    assert system.before == "<|im_start|>system\nYou write SQL.<|im_end|>\n<|im_start|>user\n"
    assert system.after == frame(CHATML).after


def test_a_system_text_may_hold_anything_that_a_template_would_read() -> None:
    assert "{{ messages }} {% if %}" in frame(CHATML, "{{ messages }} {% if %}").before


def test_arguments_reach_the_template() -> None:
    template = CHATML + "{% if not enable_thinking | default(true) %}<think></think>{% endif %}"
    assert frame(template, enable_thinking=False).after.endswith("<think></think>")
    assert frame(template).after == frame(CHATML).after


def test_a_template_that_asks_for_the_time_gets_the_day_of_the_settings() -> None:
    template = '{{ strftime_now("%d %B %Y") }} ' + CHATML
    assert asks_for_the_time(Tokenizer(template))
    assert frame(template).before.startswith("26 July 2024 <|im_start|>")
    assert frame(template, date="2025-01-02").before.startswith("02 January 2025")
    assert not asks_for_the_time(Tokenizer(CHATML))
    assert not asks_for_the_time(Tokenizer(None))
    assert not asks_for_the_time(object())


@pytest.mark.parametrize(
    ("template", "system", "arguments", "said"),
    [
        (None, "", {}, "has no chat template"),
        ("", "", {}, "has no chat template"),
        ("{{ raise_exception('no system role') }}", "x", {}, "refuses the prompt: no system role"),
        ("{{ messages[5].content }}", "", {}, "refuses the prompt"),
        ("{% if %}", "", {}, "refuses the prompt"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "x", {}, "drops or alters the system message"),
        ("nothing of it", "", {}, "drops or alters the user's text"),
        ("{{ messages[-1].content | upper }}", "", {}, "drops or alters the user's text"),
        ("{{ messages[-1].content[:10] }}", "", {}, "drops or alters the user's text"),
        ("{{ messages[-1].content | tojson }}", "", {}, "drops or alters the user's text"),
        ("{{ messages[-1].content | e }}", "", {}, "drops or alters the user's text"),
        ("{{ messages[-1].content.split() | join(' ') }}", "", {}, "drops or alters the user's text"),
        ("{{ messages[-1].content }} {{ messages[-1].content }}", "", {}, "more than once"),
        ("{{ messages[-1].content }}{{ range(10**5) | random }}{{ range(10**5) | random }}", "", {}, "another prompt each time"),
        (CHATML, "", {"messages": "x"}, "messages can't be set"),
        (CHATML, "", {"tokenize": True, "strftime_now": 1, "ok": 2}, "strftime_now, tokenize can't be set"),
    ],
)
def test_templates_that_do_not_serve_are_refused_with_the_setting(
    template: str | None, system: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(KidpipeError, match=said) as caught:
        frame(template, system, **arguments)
    assert caught.value.where.startswith("ingest.")
    assert caught.value.fix


@pytest.mark.parametrize("date", ["", "today", "2024-13-01", "2024-02-30", "26.07.2024", "2024-07-26T00:00"])
def test_what_is_no_date_is_refused(date: str) -> None:
    with pytest.raises(KidpipeError, match="is no date") as caught:
        frame(CHATML, date=date)
    assert caught.value.where == "ingest.chat_date"


def test_a_date_is_its_midnight() -> None:
    assert fixed_moment("2024-02-29") == datetime(2024, 2, 29)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>\n"),
        (
            "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif %}{% endfor %}",
            "</s>",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ""),
        ("{{ messages[0].content }}", ""),
        ("{{ raise_exception('no answers') }}", ""),
        ("{% if %}", ""),
    ],
)
def test_what_ends_an_answer(template: str, end: str) -> None:
    assert answer_end_text(Tokenizer(template), {}, DAY) == end
