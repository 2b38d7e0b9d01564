"""What models say, as they write it, taken apart by vLLM's own parsers; no weights, and tokenizers with the marks that they need."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest
from tokenizer_builders import byte_level_bpe

from rayllm_batch.engine import answer_parser, vllm_versions
from rayllm_batch.engine.answer_parser import AnswerParser
from rayllm_batch.engine.base import ParsedAnswer, Request

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<|python_tag|>"]
MARKS += ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>", "<|call|>", "<|constrain|>"]
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Of a city.", "parameters": CITY}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'
BERN = ("get_weather", {"city": "Bern"})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer
    from vllm.tokenizers import get_tokenizer

    folder = byte_level_bpe(tmp_path_factory.mktemp("marks"), bos_in_template=True, bos_by_tokenizer=False)
    plain = AutoTokenizer.from_pretrained(folder)
    plain.add_special_tokens({"additional_special_tokens": MARKS})
    plain.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return get_tokenizer(str(folder))


class Said:
    """A parser of one model, and what it makes of an answer to a prompt."""

    def __init__(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, model_type: str = "qwen3") -> None:
        self.tokenizer, self.model = (
            tokenizer,
            SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type), model="m"),
        )
        self.model.hf_text_config = self.model.hf_overrides = None
        real = vllm_versions.part
        of_this = {"cached_tokenizer_from_config": lambda _config: tokenizer}
        monkeypatch.setattr(answer_parser.vllm_versions, "part", lambda name: of_this.get(name) or real(name))

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def parser(self, reasoning: Optional[str], tool: Optional[str]) -> AnswerParser:
        return AnswerParser(self.model, reasoning, tool)

    def request(self, prompt: str = "user: Hi", **more: Any) -> Request:
        return Request(self.ids(prompt), **more)

    def __call__(
        self, reasoning: Optional[str], tool: Optional[str], text: str, prompt: str = "user: Hi", **more: Any
    ) -> ParsedAnswer:
        return asyncio.run(self.parser(reasoning, tool).parse(self.request(prompt, **more), text, self.ids(text)))


@pytest.fixture
def said(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Said:
    return Said(tokenizer, monkeypatch)


def calls(answer: ParsedAnswer) -> list[tuple[str, Any]]:
    assert all(set(call) == {"id", "name", "arguments"} and call["id"] for call in answer.tool_calls)
    assert len({call["id"] for call in answer.tool_calls}) == len(answer.tool_calls)
    return [(call["name"], json.loads(call["arguments"])) for call in answer.tool_calls]


def test_thoughts_and_an_answer(said: Said) -> None:
    """As Qwen3 writes it."""
    answer = said("qwen3", None, "<think>\nTwo and two.\n</think>\n\nIt is 4.")
    assert (answer.reasoning or "").strip() == "Two and two." and (answer.content or "").strip() == "It is 4."
    assert answer.num_reasoning_tokens == len(said.ids("\nTwo and two.\n"))
    assert not answer.tool_calls and not answer.problem


@pytest.mark.parametrize("parser", ["qwen3", "deepseek_r1"])
def test_the_prompt_has_the_mark_that_begins_the_thoughts(said: Said, parser: str) -> None:
    """As of DeepSeek-R1's later templates, and Qwen3's thinking models: the tokens count all the same."""
    answer = said(parser, None, "Two and two.</think>It is 4.", prompt="user: 2 + 2? <think>\n")
    assert (answer.reasoning, answer.content) == ("Two and two.", "It is 4.")
    assert answer.num_reasoning_tokens == len(said.ids("Two and two."))


@pytest.mark.parametrize("parser", ["qwen3", "deepseek_r1"])
def test_thoughts_that_the_template_has_turned_off(said: Said, parser: str) -> None:
    off = "user: 2 + 2? <think>\n\n</think>\n\n"
    answer = said(parser, None, "It is 4.", prompt=off, chat_template_kwargs={"enable_thinking": False})
    assert answer == ParsedAnswer(content="It is 4.")
    called = said(parser, "hermes", CALL, prompt=off, chat_template_kwargs={"enable_thinking": False}, tools=TOOLS)
    assert calls(called) == [BERN] and called.content is None


@pytest.mark.parametrize("parser", ["qwen3", "deepseek_r1"])
def test_thoughts_without_an_end(said: Said, parser: str) -> None:
    answer = said(parser, None, "<think>Two and")
    assert (answer.reasoning, answer.content) == ("Two and", None)
    assert answer.num_reasoning_tokens == len(said.ids("Two and"))


def test_an_empty_answer_is_one(said: Said) -> None:
    assert said("qwen3", None, "", prompt="user: Hi <think>\n\n</think>\n\n") == ParsedAnswer(content="")
    assert said(None, "hermes", "") == ParsedAnswer(content="")


def test_calls_beside_thoughts_and_text(said: Said) -> None:
    text = f"<think>\nLook.\n</think>\n\nI look.\n{CALL}\n{CALL.replace('Bern', 'Zürich')}"
    answer = said("qwen3", "hermes", text, tools=TOOLS)
    assert calls(answer) == [BERN, ("get_weather", {"city": "Zürich"})]
    assert (answer.content or "").strip() == "I look." and (answer.reasoning or "").strip() == "Look."


def test_a_call_without_tools_in_the_request_is_text(said: Said) -> None:
    assert said(None, "hermes", CALL).content == CALL


def test_arguments_get_the_types_of_the_schema(said: Said) -> None:
    """As Qwen3-Coder writes them: all is text."""
    text = "<tool_call>\n<function=get_weather>\n<parameter=city>\n7\n</parameter>\n<parameter=days>\n7\n</parameter>\n"
    answer = said(None, "qwen3_coder", f"{text}</function>\n</tool_call>", tools=TOOLS)
    assert calls(answer) == [("get_weather", {"city": "7", "days": 7})]


def test_calls_of_llama(said: Said) -> None:
    answer = said(None, "llama3_json", '{"name": "get_weather", "parameters": {"city": "Bern"}}', tools=TOOLS)
    assert calls(answer) == [BERN] and answer.content is None
    assert said(None, "llama3_json", "It is 4.", tools=TOOLS) == ParsedAnswer(content="It is 4.")


def test_special_tokens_stay_in_the_text_where_a_parser_reads_them(said: Said) -> None:
    hermes = said.parser(None, "hermes")
    assert hermes.prepare(said.request(settings={"max_tokens": 5})) == ({"max_tokens": 5}, {})
    settings, more = hermes.prepare(said.request(settings={"max_tokens": 5}, tools=TOOLS))
    assert (settings, more) == ({"max_tokens": 5, "skip_special_tokens": False}, {})
    assert said.parser("deepseek_r1", None).prepare(said.request())[0] == {"skip_special_tokens": False}, (
        "its own are here"
    )


@pytest.mark.parametrize(
    ("prompt", "ended"), [("user: Hi <think>\n", False), ("user: Hi <think>\n\n</think>\n\n", True)]
)
def test_a_form_waits_for_the_end_of_the_thoughts(said: Said, prompt: str, ended: bool) -> None:
    form, how = {"structured_outputs": {"json": {"type": "object"}}}, {"enable_thinking": not ended}
    request = said.request(prompt, settings=form, chat_template_kwargs=how)
    settings, more = said.parser("deepseek_r1", None).prepare(request)
    assert settings == {**form, "skip_special_tokens": False}
    assert more == {"reasoning_ended": ended, "reasoning_parser_kwargs": {"chat_template_kwargs": how}}


NAMED = {"type": "function", "function": {"name": "get_weather"}}
BARE = {"type": "function", "function": {"name": "now"}}


def form(said: Said, parser: str, **request: Any) -> dict[str, Any]:
    settings, _ = said.parser(None, parser).prepare(said.request(**request))
    return settings.get("structured_outputs") or {}


def test_a_call_that_is_forced(said: Said) -> None:
    """As vLLM's server has it: the grammar is that of the tools, and what comes is read as such."""
    assert form(said, "pythonic", tools=TOOLS, tool_choice=NAMED) == {"json": CITY}
    bare = form(said, "pythonic", tools=[BARE], tool_choice={**NAMED, "function": {"name": "now"}})
    assert bare == {"json": answer_parser.NO_PARAMETERS}
    several = form(said, "pythonic", tools=TOOLS, tool_choice="required")["json"]
    assert several["type"] == "array" and several["minItems"] == 1 and "get_weather" in json.dumps(several)
    for choice in (None, "none"):
        assert not form(said, "pythonic", tools=TOOLS, tool_choice=choice)
    named = said(None, "pythonic", '{"city": "Bern"}', tools=TOOLS, tool_choice=NAMED)
    both = '[{"name": "get_weather", "parameters": {"city": "Bern"}}]'
    required = said(None, "pythonic", both, tools=TOOLS, tool_choice="required")
    assert calls(named) == calls(required) == [BERN] and named.content is required.content is None
    assert not said(None, "pythonic", both[:-2], tools=TOOLS, tool_choice="required").tool_calls


def test_a_forced_call_as_the_model_writes_it(said: Said) -> None:
    for choice in ("required", NAMED):
        assert "<tool_call>" in form(said, "hermes", tools=TOOLS, tool_choice=choice)["structural_tag"]
        assert calls(said(None, "hermes", CALL, tools=TOOLS, tool_choice=choice)) == [BERN]
    forbidden = said(None, "hermes", "No. " + CALL, tools=TOOLS, tool_choice="none")
    assert not forbidden.tool_calls and (forbidden.content or "").startswith("No.")


def test_a_forced_call_waits_for_the_end_of_the_thoughts(said: Said) -> None:
    asked = said.request("user: Hi <think>\n", tools=TOOLS, tool_choice=NAMED)
    settings, more = said.parser("qwen3", "pythonic").prepare(asked)
    assert settings["structured_outputs"]["json"] == CITY and more["reasoning_ended"] is False
    answer = said("qwen3", "pythonic", '<think>Where?</think>{"city": "Bern"}', tools=TOOLS, tool_choice=NAMED)
    assert calls(answer) == [BERN] and (answer.reasoning or "").strip() == "Where?"


def test_a_parser_that_raises(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

    parser = said.parser(None, "hermes")

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("arguments")

    monkeypatch.setattr(Hermes2ProToolParser, "extract_tool_calls", fail)
    answer = asyncio.run(parser.parse(said.request(tools=TOOLS), CALL, said.ids(CALL)))
    assert answer == ParsedAnswer(content=CALL, problem="its parser raised KeyError: 'arguments'")


def test_long_texts_leave_the_loop_to_others(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_parser, "LARGE", 10)
    beats: list[int] = []

    async def both() -> ParsedAnswer:
        parser, text = said.parser("deepseek_r1", None), "<think>" + "A thought. " * 20_000 + "</think>It is 4."
        parsing = asyncio.ensure_future(parser.parse(said.request(), text, said.ids(text)))
        while not parsing.done():
            beats.append(1)
            await asyncio.sleep(0)
        return await parsing

    assert asyncio.run(both()).content == "It is 4."
    assert len(beats) > 10, "the loop went on"


def test_what_does_not_fit_the_model_is_said_at_once(said: Said) -> None:
    with pytest.raises(ValueError, match=r"tool_parser 'deepseek_v3' of engine_kwargs cannot be used with this model"):
        said.parser(None, "deepseek_v3")  # no such marks in the tokenizer
    with pytest.raises(ValueError, match=r"reasoning_parser 'openai_gptoss' and tool_parser 'hermes' of engine_kwargs"):
        said.parser("openai_gptoss", "hermes")  # it reads token ids of gpt-oss alone


def test_a_parser_of_the_users_own(said: Said, tmp_path: Path) -> None:
    from vllm.reasoning import ReasoningParserManager

    (tmp_path / "mine.py").write_text(
        "from vllm.reasoning import ReasoningParserManager\n"
        "from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser\n"
        "@ReasoningParserManager.register_module('of_mine')\n"
        "class Mine(DeepSeekR1ReasoningParser):\n"
        "    def extract_reasoning(self, model_output, request):\n"
        "        return super().extract_reasoning(model_output.upper().replace('THINK>', 'think>'), request)\n"
    )
    parser = AnswerParser(said.model, "of_mine", None, str(tmp_path / "mine.py"))
    text = "<think>Hm.</think>It is 4."
    answer = asyncio.run(parser.parse(said.request(), text, said.ids(text)))
    assert (answer.reasoning, answer.content) == ("HM.", "IT IS 4.")
    for kept in (ReasoningParserManager.reasoning_parsers, ReasoningParserManager.lazy_parsers):
        kept.pop("of_mine", None)  # other tests compare the names


class Harmony:
    """In place of openai_harmony's, whose vocabulary is a download: messages of `<|channel|>NAME[ to=WHOM]<|message|>TEXT`."""

    def __init__(self, tokenizer: Any) -> None:
        self._decode, self._header, self._text = tokenizer.decode, "", None
        self.messages: list[Any] = []
        self.current_channel: Optional[str] = None
        self.current_recipient: Optional[str] = None
        self.last_content_delta: Optional[str] = None

    def process(self, token_id: int) -> None:
        token, self.last_content_delta = self._decode([token_id]), None
        if token == "<|message|>":
            words = self._header.replace("<|channel|>", "").replace("<|constrain|>", " ").split()
            self.current_channel, self._text = words[0], ""
            self.current_recipient = next((word[3:] for word in words if word.startswith("to=")), None)
        elif token in ("<|end|>", "<|return|>", "<|call|>"):
            self.process_eos()
        elif self._text is None:
            self._header += "" if token in ("<|start|>", "assistant") else token
        else:
            self._text, self.last_content_delta = self._text + token, token

    def process_eos(self) -> None:
        if self._text is not None:
            from openai_harmony import Message, Role

            message = Message.from_role_and_content(Role.ASSISTANT, self._text).with_channel(self.current_channel or "")
            self.messages.append(message.with_recipient(self.current_recipient) if self.current_recipient else message)
        self._header, self._text, self.current_channel, self.current_recipient = "", None, None, None


@pytest.fixture
def gpt_oss(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Said:
    import vllm.parser.harmony

    monkeypatch.setattr(vllm.parser.harmony, "get_streamable_parser_for_assistant", lambda: Harmony(tokenizer))
    return Said(tokenizer, monkeypatch, "gpt_oss")


def test_channels_of_gpt_oss(gpt_oss: Said) -> None:
    thought = "<|channel|>analysis<|message|>Two and two.<|end|>"
    answer = gpt_oss("openai_gptoss", "openai", f"{thought}<|start|><|channel|>final<|message|>It is 4.<|return|>")
    assert (answer.reasoning, answer.content, answer.tool_calls) == ("Two and two.", "It is 4.", ())
    assert answer.num_reasoning_tokens == len(gpt_oss.ids("Two and two."))
    call = (
        '<|start|><|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Bern"}<|call|>'
    )
    answer = gpt_oss("openai_gptoss", "openai", thought + call, tools=TOOLS)
    assert calls(answer) == [BERN] and answer.content is None and answer.reasoning == "Two and two."
    cut = gpt_oss("openai_gptoss", "openai", "<|channel|>analysis<|message|>Two and")
    assert (cut.reasoning, cut.content) == ("Two and", None)


def test_a_form_of_gpt_oss_is_that_of_its_last_channel(gpt_oss: Said) -> None:
    request = gpt_oss.request(settings={"structured_outputs": {"choice": ["yes", "no"]}})
    settings, more = gpt_oss.parser("openai_gptoss", None).prepare(request)
    tag = settings["structured_outputs"]["structural_tag"]
    assert set(settings["structured_outputs"]) == {"structural_tag"} and "<|channel|>final" in tag and '"yes"' in tag
    assert more["reasoning_ended"] is True, "the tag has the thoughts in it"


HALVES = '{"name": "get_weather", "%s": {"city": "\\ud83d", "\\udfff": ["\\ud83d\\ude00"]}}'


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("hermes", f"<tool_call>\n{HALVES % 'arguments'}\n</tool_call>"),
        ("llama3_json", HALVES % "parameters"),
        ("pythonic", '[get_weather(city="\\ud83d", days=["\\ud83d\\ude00"])]'),
        (
            "qwen3_xml",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\\ud83d</parameter>\n</function>\n</tool_call>",
        ),
    ],
)
def test_what_json_may_hold_and_no_text_can_is_json_again(said: Said, parser: str, text: str) -> None:
    """A half of a surrogate pair, which a parser makes of the escape that stands for it; no column takes it."""
    answer = said(None, parser, text, tools=TOOLS)
    for call in answer.tool_calls:
        assert call["arguments"].encode() and json.loads(call["arguments"])["city"] in ("\ud83d", "\\ud83d")
    assert answer.tool_calls or answer.problem or answer.content == text
