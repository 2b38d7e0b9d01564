"""What the first rows' prompts tell on the driver, before an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.errors import ConfigError, RayLLMBatchError
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.run.first_prompts import check_first_prompts
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.run.rows import Rows
from rayllm_batch.tasks.base import Task
from rayllm_batch.tasks.completions import Completions
from rayllm_batch.tasks.generate import Generate

GENERATE = Generate()
MODEL = Path("assets/demo-model")
NO_TOOLS = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def check(
    *chats: dict[str, Any],
    failed: tuple[str, ...] = (),
    facts: ModelFacts | None = None,
    task: Task = GENERATE,
    **config: Any,
) -> list[str]:
    given = init_engine_from_config("configs/demo-cpu.yaml", override=config)
    facts = facts or ModelFacts({"vocab_size": 8192}, folder=MODEL)
    return check_first_prompts(given, facts, Rows(None, [{}], 1, chats=chats, failed=failed, task=task))


def chat(role: str = "user", content: str = "hello there") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


def test_all_is_well() -> None:
    assert check(chat(), chat("system"), {"prompt_token_ids": [5, 6]}) == []


def test_a_template_that_refuses_some_or_all() -> None:
    [error] = check(chat(), chat("tool"), chat_template=NO_TOOLS)
    assert error.startswith("chat_template: ") and "only user and assistant" in error
    with pytest.raises(ConfigError, match=r"None of the first 2 row\(s\) can be answered.*only user and assistant"):
        check(chat("tool"), chat("developer"), chat_template=NO_TOOLS)


def test_pictures_for_a_model_of_text_are_known_before(tmp_path: Path) -> None:
    part = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}
    seen = {"messages": [part], "media": [("image", b"")]}
    [error] = check(chat(), seen)
    assert error.startswith("media: it has 1 image, but ") and "is one for text alone" in error
    with pytest.raises(
        ConfigError, match=r"None of the first 1 row\(s\) can be answered. The first: media: it has 1 im"
    ):
        check(seen)


def test_media_are_read_before_where_an_endpoint_renders() -> None:
    given = init_engine_from_config(
        {"model_id": "m", "llm_engine": "openai", "engine_kwargs": {"base_url": "http://localhost:1/v1"}}
    )
    part = {"role": "user", "content": [{"type": "image"}]}
    rows = Rows(None, [{}], 1, chats=({"messages": [part], "media": [("image", "http://a.example/b.png")]}, chat()))
    [error] = check_first_prompts(given, ModelFacts(), rows)
    assert error.startswith("media: ") and "media_hosts" in error


def looking(sources: list[Any], rules: MediaRules, others: Any = lambda: ([], [])) -> list[str]:
    given = init_engine_from_config(
        {"model_id": "m", "llm_engine": "openai", "engine_kwargs": {"base_url": "http://a"}}
    )
    part = {"role": "user", "content": [{"type": "image"}]}
    chats = tuple({"messages": [part], "media": [("image", source)]} for source in sources)
    return check_first_prompts(given, ModelFacts(), Rows(None, [{}], 1, chats=chats, others=others), rules=rules)


def test_media_that_are_gone_refuse_no_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rules, there = MediaRules(folder=str(tmp_path)), {"messages": [{"role": "user", "content": "a text"}]}
    assert len(looking(["gone.png", b"no picture"], rules, lambda: ([there], []))) == 2
    [record] = caplog.records
    said = "2 of the first 2 row(s) are without their media, and so are 0 of 1 further ones. The first: media: the file"
    assert record.getMessage().startswith(said) and "No such file" in record.getMessage()
    assert record.getMessage().endswith("directory. Each gets its error, and the run goes on.")


@pytest.mark.parametrize(
    ("source", "has_folder", "said"),
    [
        ("gone.png", False, "set the workload's media_folder"),
        ("../gone.png", True, "it is not below media_folder"),
        ("https://a.example/b.png", True, "to the workload's media_hosts"),
        ("http://169.254.169.254/b.png", True, "no row may reach"),
    ],
)
def test_media_that_the_workload_does_not_allow_do(source: str, has_folder: bool, said: str, tmp_path: Path) -> None:
    rules = MediaRules(folder=str(tmp_path) if has_folder else None)
    with pytest.raises(ConfigError, match=f"None of the first 3 .*{said}"):
        looking([source] * 3, rules)
    assert len(looking([source, source, b"no picture"], rules)) == 3, "rows of another kind may be answered"


def test_rows_that_parse_row_fails_on_count_too() -> None:
    assert check(chat(), failed=("parse_row: KeyError: 'x'",)) == ["parse_row: KeyError: 'x'"]
    with pytest.raises(ConfigError, match="None of the first 3 .*parse_row: KeyError"):
        check(chat("tool"), chat("tool"), failed=("parse_row: KeyError: 'x'",), chat_template=NO_TOOLS)


def test_where_each_error_is_a_result_none_of_the_first_need_be_answered() -> None:
    assert len(check(chat("tool"), failed=("x",), task=Completions(), chat_template=NO_TOOLS)) == 2


def test_a_rows_own_chat_template_kwargs_are_seen() -> None:
    refuses = "{% if mood is defined %}{{ raise_exception('no moods') }}{% endif %}{{ messages[0].content }}"
    [error] = check(chat(), {**chat(), "chat_template_kwargs": {"mood": "good"}}, chat_template=refuses)
    assert "no moods" in error


def test_what_is_too_long() -> None:
    long = chat(content="word " * 3000)
    [error] = check(chat(), long)
    assert error.startswith("tokenize: the prompt has 3,") and "max_model_len is 2,048" in error
    assert len(check({"prompt_token_ids": [3] * 2048}, chat())) == 1
    assert check({"prompt_token_ids": [3] * 2047}, chat()) == []


def test_length_alone_refuses_no_table(caplog: pytest.LogCaptureFixture) -> None:
    long, short = {"prompt_token_ids": [3] * 3000}, {"prompt_token_ids": [3]}
    given = init_engine_from_config("configs/demo-cpu.yaml")
    rows = Rows(
        None,
        [{}],
        1,
        chats=(long, long),
        failed=("parse_row: x",),
        others=lambda: ([long, short, short], ["parse_row: y"]),
    )
    assert len(check_first_prompts(given, ModelFacts({"vocab_size": 8192}, folder=MODEL), rows)) == 3
    [record] = caplog.records
    assert "2 of the first 3 row(s) are too long to be answered, and so are 1 of 3 further ones." in record.getMessage()
    assert "3,000 tokens, but max_model_len is 2,048" in record.getMessage()


@pytest.mark.parametrize(
    ("model", "length"),
    [
        ({"model_type": "llama", "max_position_embeddings": 100}, 100),
        ({"model_type": "bert", "max_position_embeddings": 100}, None),
        (
            {"model_type": "llama", "max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 4}},
            None,
        ),
        ({"model_type": "qwen3", "max_position_embeddings": 100, "rope_parameters": {"rope_type": "yarn"}}, None),
        ({"model_type": "qwen3", "max_position_embeddings": 100, "rope_parameters": {"rope_type": "default"}}, 100),
        ({}, None),
    ],
)
def test_what_is_too_long_for_the_model(model: dict[str, Any], length: int | None) -> None:
    long = {"prompt_token_ids": [5] * 100}
    found = check(chat(), long, facts=ModelFacts(model, folder=MODEL), engine_kwargs={"max_model_len": None})
    assert found == (
        [f"tokenize: the prompt has 100 tokens, but the model's context is {length} (prompt and answer together)"]
        if length
        else []
    )
    assert check(chat(), long, facts=ModelFacts(model, folder=MODEL), engine_kwargs={"max_model_len": 101}) == []
    assert check(chat(), long, facts=ModelFacts(model, folder=MODEL), engine_kwargs={"max_model_len": -1}) == []


def test_the_vocabulary_of_a_model_that_sees() -> None:
    facts = ModelFacts({"text_config": {"vocab_size": 50}}, folder=MODEL)
    assert len(check({"prompt_token_ids": [50]}, {"prompt_token_ids": [49]}, facts=facts)) == 1


def test_half_of_a_surrogate_pair() -> None:
    [error] = check(chat(), chat(content="a \udc80 b"))
    assert error.startswith("tokenize: the prompt holds half of a surrogate pair") and "\\udc80" in error


def test_a_tokenizer_of_another_model() -> None:
    [error] = check({"prompt_token_ids": [8192]}, {"prompt_token_ids": [8191]})
    assert "8,192 is beyond the model's vocabulary of 8,192" in error


def test_a_tokenizer_that_does_not_load(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(RayLLMBatchError, match="tokenizer of .* cannot be loaded"):
        check(chat(), facts=ModelFacts(folder=tmp_path))


def test_nothing_is_known_without_the_files() -> None:
    assert check(chat("tool"), failed=("parse_row: x",), facts=ModelFacts(), chat_template=NO_TOOLS) == ["parse_row: x"]


def check_pooled(task: str, *rows: dict[str, Any], **fields: Any) -> list[str]:
    given = init_engine_from_config(
        "configs/demo-embed-cpu.yaml", override={"task": task, "engine_kwargs": {"max_model_len": 2048}}
    )
    workload = type("Mine", (ChatWorkloadBase,), {"parse_row": lambda self, row: row})(**fields)
    kind = given.task_kind.of(workload, given.engine_kwargs).of_model({"hidden_size": 256}, MODEL, given.engine_kwargs)
    facts = ModelFacts({"vocab_size": 8192}, folder=MODEL)
    parsed = tuple(kind.parse(lambda row: row, row) for row in rows)
    return check_first_prompts(given, facts, Rows(None, [{}], 1, chats=parsed, task=kind))


def test_texts_of_which_every_token_is_read() -> None:
    assert check_pooled("embed", {"prompt": "a"}, {"prompt_token_ids": [3] * 2048}, chat()) == []
    [error] = check_pooled("embed", {"prompt": "a"}, {"prompt": "word " * 3000})
    assert "the text has 3," in error and "max_model_len is 2,048; shorten it, or set truncate_prompt_tokens" in error
    assert check_pooled("embed", {"prompt": "word " * 3000}, pooling_params={"truncate_prompt_tokens": 9}) == []
    pair = {"query": "word " * 1200, "documents": ["word " * 1200, "a"]}
    assert check_pooled("score", pair, {"query": "a", "document": "b"}) == [], (
        "each text has the model's length for itself"
    )
    with pytest.raises(
        ConfigError, match=r"None of the first 1 row\(s\) can be answered.*beyond the model's vocabulary"
    ):
        check_pooled("embed", {"prompt_token_ids": [9000]})
