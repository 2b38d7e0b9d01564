"""The CPU stage: exactly the token ids of `apply_chat_template`, and each bad row's error in that row."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizer_builders
from answers import a_failure, an_answer

from rayllm_batch.errors import ConfigError, DatasetError, EngineError
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.completions import Completions
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import prompts as prompt
from rayllm_batch.workers import tokenizer

CHATS = [
    [{"role": "user", "content": "The council opened a new library."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A storm\n\nclosed  the harbour."}],
    [{"role": "user", "content": "Größe, 図書館, 🙂 and a\u00a0space"}],
    [{"role": "user", "content": "It says <s> and </s> and <pad> itself."}],
    [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "a long one " * 400}],
]
SHAPES = [*tokenizer_builders.SHAPES, "padding_and_truncating", "split_special_tokens", "python_only"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    made = {
        name: tokenizer_builders.byte_level_bpe(root / name, bos_in_template=template, bos_by_tokenizer=tokenizer)
        for name, (template, tokenizer) in tokenizer_builders.SHAPES.items()
    }
    made["padding_and_truncating"] = tokenizer_builders.padding_and_truncating(root / "padding")
    made["split_special_tokens"] = tokenizer_builders.byte_level_bpe(
        root / "split", bos_in_template=True, bos_by_tokenizer=False, split_special_tokens=True
    )
    made["python_only"] = tokenizer_builders.python_only(root / "python")
    return made


@pytest.fixture(autouse=True)
def _no_cached_tokenizer() -> Iterator[None]:
    yield
    sys.__dict__.pop("_rayllm_batch_tokenizer", None)


def job(folder: Path, parse_row: Callable[[dict[str, Any]], Any], **given: Any) -> prompt.PromptJob:
    return prompt.PromptJob(parse_row=parse_row, tokenizer=str(folder), **given)


def from_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": json.loads(row["chat"])}


def chats(*messages: Any) -> pa.Table:
    return pa.table({"chat": [json.dumps(m) for m in messages], "id": list(range(len(messages)))})


def built(table: pa.Table, given: prompt.PromptJob) -> list[dict[str, Any]]:
    return prompt.build_prompts(table, given).to_pylist()


def errors_of(folder: Path, parse_row: Callable[[dict[str, Any]], Any], rows: int = 3) -> list[str | None]:
    """The errors of a batch with column `n` 0, 1, ...; rows without one must have token ids, and the others none."""
    out = built(pa.table({"n": list(range(rows))}), job(folder, parse_row))
    assert [row["n"] for row in out] == list(range(rows)), "every row stays, in its place, with its columns"
    for row in out:
        assert (row[run_columns.TOKEN_IDS] is None) == (row[run_columns.STAGE_ERROR] is not None)
    return [row[run_columns.STAGE_ERROR] for row in out]


def only_row_1_fails(folder: Path, answer: Callable[[], Any]) -> str:
    """The error of row 1, for which `answer` stands in for parse_row; rows 0 and 2 must be good."""
    good = {"messages": [{"role": "user", "content": "hello"}]}
    first, error, last = errors_of(folder, lambda row: answer() if row["n"] == 1 else good)
    assert first is None and last is None, "the other rows of the batch go on"
    assert error is not None
    return error


@pytest.mark.parametrize("shape", SHAPES)
def test_ids_are_those_of_apply_chat_template(shape: str, folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    out = built(chats(*CHATS), job(folders[shape], from_row))
    reference = AutoTokenizer.from_pretrained(folders[shape])  # not the one the stage prepared
    assert [row[run_columns.STAGE_ERROR] for row in out] == [None] * len(CHATS)
    for row, messages in zip(out, CHATS, strict=True):
        expected = reference.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert row[run_columns.TOKEN_IDS] == expected


@pytest.mark.parametrize(("shape", "count"), [("template", 1), ("both", 1), ("tokenizer", 0), ("none", 0)])
def test_bos_stands_where_the_template_writes_it_and_once(shape: str, count: int, folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folders[shape])
    if shape in ("tokenizer", "both"):  # the shape is what its name says
        assert reference("hello")["input_ids"][0] == reference.bos_token_id
    [row] = built(chats(CHATS[0]), job(folders[shape], from_row))
    assert row[run_columns.TOKEN_IDS].count(reference.bos_token_id) == count
    assert (row[run_columns.TOKEN_IDS][0] == reference.bos_token_id) == bool(count)


def test_saved_padding_and_truncation_are_off(folders: dict[str, Path]) -> None:
    short, long = built(chats(CHATS[0], CHATS[-1]), job(folders["padding_and_truncating"], from_row))
    plain = built(chats(CHATS[0], CHATS[-1]), job(folders["template"], from_row))
    assert short[run_columns.TOKEN_IDS] == plain[0][run_columns.TOKEN_IDS] and len(short[run_columns.TOKEN_IDS]) < 64
    assert long[run_columns.TOKEN_IDS] == plain[1][run_columns.TOKEN_IDS] and len(long[run_columns.TOKEN_IDS]) > 64


def test_a_chat_template_of_the_config_replaces_the_tokenizers_own(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    given = job(
        folders["both"],
        from_row,
        chat_template="{{ messages[0].content }}|{{ mood }}",
        chat_template_kwargs={"mood": "calm"},
    )
    [row] = built(chats([{"role": "user", "content": "hello"}]), given)
    assert AutoTokenizer.from_pretrained(folders["both"]).decode(row[run_columns.TOKEN_IDS]) == "hello|calm"


def test_the_tokenizer_is_loaded_once_a_job(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = tokenizer.load_tokenizer
    monkeypatch.setattr(tokenizer, "load_tokenizer", lambda given: loaded.append(given.tokenizer) or load(given))
    first, second = job(folders["none"], from_row), job(folders["template"], from_row)
    for given in (first, first, second):
        prompt.build_prompts(chats(CHATS[0]), given)
    assert loaded == [first.tokenizer, second.tokenizer]


def test_a_template_that_was_changed_since_is_read_again(tmp_path: Path) -> None:
    """In a notebook's kernel, and in a worker that outlives the run."""
    folder = tokenizer_builders.byte_level_bpe(tmp_path / "model", bos_in_template=False, bos_by_tokenizer=False)
    given = job(folder, from_row)
    built(chats(CHATS[0]), given)
    (folder / "chat_template.jinja").write_text("changed: {{ messages[0].content }}")
    [row] = built(chats(CHATS[0]), given)
    assert tokenizer.decode(row[run_columns.TOKEN_IDS], given).startswith("changed: ")


def test_input_columns_are_kept_and_three_are_added(folders: dict[str, Path]) -> None:
    def parse_row(row: dict[str, Any]) -> dict[str, Any]:
        row["id"] = "changed by the workload"
        return from_row(row)

    table = chats(*CHATS[:2]).append_column("when", pa.array([1, None], pa.timestamp("s")))
    out = prompt.build_prompts(table, job(folders["none"], parse_row))
    assert out.drop_columns(run_columns.STAGE_SCHEMA.names).equals(table)
    assert [out.schema.field(name).type for name in run_columns.STAGE_SCHEMA.names] == run_columns.STAGE_SCHEMA.types


def test_an_empty_batch_and_one_of_failures_have_the_same_schema(folders: dict[str, Path]) -> None:
    good = prompt.build_prompts(chats(CHATS[0]), job(folders["none"], from_row))
    empty = prompt.build_prompts(chats(CHATS[0]).slice(0, 0), job(folders["none"], from_row))
    failed = prompt.build_prompts(chats(CHATS[0]), job(folders["none"], lambda row: row["absent"]))
    assert empty.num_rows == 0 and empty.schema == good.schema == failed.schema


# --- errors of one row


def test_a_column_that_is_missing_is_named_with_those_that_are_there(folders: dict[str, Path]) -> None:
    error = only_row_1_fails(folders["none"], lambda: {}["article"])
    assert error.startswith("parse_row: KeyError: 'article'") and "the row has: n" in error


def test_an_exception_of_parse_row(folders: dict[str, Path]) -> None:
    def fail() -> None:
        raise ValueError("two\nlines " + "x" * 5000)

    error = only_row_1_fails(folders["none"], fail)
    assert error.startswith("parse_row: ValueError: two lines xxx")
    assert "\n" not in error and len(error) < 600, "one short line, whatever the exception holds"
    assert "the row has" not in error, "columns help against a missing one alone"


def test_an_exception_whose_text_is_not_unicode(folders: dict[str, Path]) -> None:
    def fail() -> None:
        raise ValueError("cannot read \ud800")

    assert "cannot read \\ud800" in only_row_1_fails(folders["none"], fail)


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (None, "NoneType: None"),
        ([{"role": "user", "content": "x"}], "list: [{'role': 'user'"),
        ("hello", "str: 'hello'"),
        ({"text": "hello"}, "dict: {'text': 'hello'}"),
        ({"messages": []}, "list: []"),
        ({"messages": "hello"}, "str: 'hello'"),
        ({"messages": {"role": "user", "content": "x"}}, "dict: {'role': 'user'"),
        ({"messages": ["hello"]}, "str: 'hello'"),
        ({"messages": [{"content": "x"}]}, "dict: {'content': 'x'}"),
        ({"messages": [{"role": 1, "content": "x"}]}, "dict: {'role': 1"),
        ({"messages": [{"role": "user"}]}, "dict: {'role': 'user'}"),
        ({"messages": [{"role": "user", "content": None}]}, "NoneType: None"),
        ({"messages": [{"role": "user", "content": 7}]}, "int: 7"),
        ({"messages": [{"role": "user", "content": "x"}], "sampling_params": [1]}, "list: [1]"),
    ],
)
def test_what_parse_row_returned_instead_is_shown(returned: Any, shown: str, folders: dict[str, Path]) -> None:
    error = only_row_1_fails(folders["none"], lambda: returned)
    assert error.startswith("parse_row: TypeError: ") and shown in error
    assert "must" in error, "and what was expected"


def test_a_long_answer_is_shown_shortened(folders: dict[str, Path]) -> None:
    assert len(only_row_1_fails(folders["none"], lambda: "x" * 100_000)) < 400


def test_sampling_params_that_no_engine_takes(folders: dict[str, Path]) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}], "sampling_params": {"stop": {"a", "b"}}}
    error = only_row_1_fails(folders["none"], lambda: chat)
    assert error.startswith(
        "sampling_params: stop in this row's sampling_params must be text or a list of texts, given set: {"
    )


def test_a_template_that_refuses_a_role(folders: dict[str, Path]) -> None:
    error = only_row_1_fails(folders["template"], lambda: {"messages": [{"role": "wizard", "content": "x"}]})
    assert error.startswith("chat_template: ") and "unknown role wizard" in error


@pytest.mark.parametrize("shape", ["template", "python_only"])
def test_text_that_the_tokenizer_refuses(shape: str, folders: dict[str, Path]) -> None:
    error = only_row_1_fails(
        folders[shape], lambda: {"messages": [{"role": "user", "content": "half \ud83d an emoji"}]}
    )
    assert error.startswith("tokenize: ")


def test_each_error_in_one_batch_lands_in_its_row(folders: dict[str, Path]) -> None:
    answers = [
        {"messages": [{"role": "user", "content": "fine"}]},
        None,
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": "fine too"}]},
    ]
    stages = [
        error and error.split(":")[0] for error in errors_of(folders["both"], lambda row: answers[row["n"]], rows=5)
    ]
    assert stages == [None, "parse_row", "chat_template", "tokenize", None]


# --- a row's own settings


def test_sampling_params_in_some_rows_only(folders: dict[str, Path]) -> None:
    def parse_row(row: dict[str, Any]) -> dict[str, Any]:
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
        if row["n"] == 1:
            chat["sampling_params"] = {"max_tokens": 3, "stop": ["ü", "\n"]}
        if row["n"] == 2:
            chat |= {"sampling_params": {"temperature": 0.5}, "model": "adapter-a"}
        if row["n"] == 3:
            chat |= {"sampling_params": {}, "model": None}
        return chat

    out = built(pa.table({"n": [0, 1, 2, 3]}), job(folders["none"], parse_row))
    requests = [row[run_columns.REQUEST] and json.loads(row[run_columns.REQUEST]) for row in out]
    assert requests == [
        None,
        {"sampling_params": {"max_tokens": 3, "stop": ["ü", "\n"]}},
        {"model": "adapter-a", "sampling_params": {"temperature": 0.5}},
        None,
    ]


# --- prompts that are tokenized already


def test_token_ids_go_to_the_engine_as_they_are(folders: dict[str, Path]) -> None:
    given = [[5, 0, 7], np.array([1, 2], dtype=np.int64), (3,), None]

    def parse_row(row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] == 3:
            return {"messages": CHATS[0]}
        return {"prompt_token_ids": given[row["n"]], "sampling_params": {"max_tokens": 1 + row["n"]}}

    both = job(folders["both"], parse_row)
    out = built(pa.table({"n": [0, 1, 2, 3]}), both)
    assert [row[run_columns.TOKEN_IDS] for row in out[:3]] == [[5, 0, 7], [1, 2], [3]]
    assert (
        out[3][run_columns.TOKEN_IDS]
        == built(chats(CHATS[0]), job(folders["both"], from_row))[0][run_columns.TOKEN_IDS]
    )
    assert [json.loads(row[run_columns.REQUEST])["sampling_params"]["max_tokens"] for row in out[:3]] == [1, 2, 3]
    assert [row["n"] for row in built(pa.table({"n": [0, 1, 2]}), dataclasses.replace(both, sort=True))] == [1, 2, 0]


def test_rows_of_one_adapter_stand_together(folders: dict[str, Path]) -> None:
    names = ["b", None, "a", "b", None]

    def parse_row(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_token_ids": [9 - row["n"]], "model": names[row["n"]]}

    ordered = dataclasses.replace(job(folders["both"], parse_row), sort=True)
    assert [row["n"] for row in built(pa.table({"n": [0, 1, 2, 3, 4]}), ordered)] == [4, 1, 2, 3, 0]


def test_token_ids_need_no_tokenizer(tmp_path: Path) -> None:
    ids = job(tmp_path / "absent", lambda row: {"prompt_token_ids": row["ids"]})
    out = built(pa.table({"ids": [[1, 2], None, []]}), ids)
    assert [row[run_columns.TOKEN_IDS] for row in out] == [[1, 2], None, None]
    assert out[1][run_columns.STAGE_ERROR].startswith(
        'parse_row: TypeError: parse_row\'s "prompt_token_ids" must be a list'
    )
    assert "NoneType: None" in out[1][run_columns.STAGE_ERROR] and "list: []" in out[2][run_columns.STAGE_ERROR]


@pytest.mark.parametrize("ids", [[1.5], [-1], [2**31], ["1"], [[1]], [[1], [2, 3]], "12", 7, {"a": 1}, [True]])
def test_what_are_not_token_ids(ids: Any, folders: dict[str, Path]) -> None:
    assert "whole numbers from 0" in only_row_1_fails(folders["none"], lambda: {"prompt_token_ids": ids})


def test_messages_and_token_ids_are_not_both_the_prompt(folders: dict[str, Path]) -> None:
    both = {"messages": CHATS[0], "prompt": "hello", "prompt_token_ids": [1]}
    for left_out in both:
        error = only_row_1_fails(folders["none"], partial(dict, {k: v for k, v in both.items() if k != left_out}))
        assert '{"messages": [...]}, {"prompt": "..."} or {"prompt_token_ids": [...]}' in error


@pytest.mark.parametrize("shape", tokenizer_builders.SHAPES)
@pytest.mark.parametrize("begins", ["", tokenizer_builders.BOS])
def test_a_text_has_the_tokenizers_own_special_tokens_and_its_bos_once(
    shape: str, begins: str, folders: dict[str, Path]
) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folders[shape])
    reference.chat_template = None
    text = f"{begins}The cat sat on [user] the mat.  "
    [row] = built(pa.table({"n": [0]}), job(folders[shape], lambda row: {"prompt": text}))
    ids = row[run_columns.TOKEN_IDS]
    own = reference(text)["input_ids"]
    assert ids == (own[1:] if begins and own[:2] == [reference.bos_token_id] * 2 else own)
    assert ids.count(reference.bos_token_id) == (1 if begins or own[0] == reference.bos_token_id else 0)
    assert reference.decode(ids).endswith("the mat.  ")


def test_a_text_needs_no_chat_template(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folders["tokenizer"], bare)
    for file in bare.glob("*.jinja"):
        file.unlink()
    rows = built(pa.table({"n": [0, 1]}), job(bare, lambda row: {"prompt": f"text {row['n']}"}))
    assert all(row[run_columns.TOKEN_IDS] for row in rows)


@pytest.mark.parametrize("text", ["", None, 5, ["a"], b"a"])
def test_what_is_no_text_for_a_prompt(text: Any, folders: dict[str, Path]) -> None:
    assert "a text that is not empty" in only_row_1_fails(folders["none"], lambda: {"prompt": text})


def test_half_of_a_surrogate_pair_in_a_text(folders: dict[str, Path]) -> None:
    assert "surrogate" in only_row_1_fails(folders["none"], lambda: {"prompt": "a\ud83d"})


# --- a row's own chat_template_kwargs


def test_rows_own_chat_template_kwargs_go_over_the_jobs(folders: dict[str, Path]) -> None:
    begun = [*CHATS[0], {"role": "assistant", "content": "Well,"}]
    given = job(folders["none"], from_row, chat_template_kwargs={"add_generation_prompt": False})
    anew = {"add_generation_prompt": True, "continue_final_message": False}
    mine = tokenizer.load_tokenizer(given)
    texts = []
    for chat, how in ((CHATS[0], None), (CHATS[0], {"add_generation_prompt": True}), (begun, None), (begun, anew)):
        ids, errors = [None], [None]
        prompt.fill(ids, [chat], errors, given, [], [how])
        assert errors == [None]
        texts.append(mine.decode(ids[0]))
    assert [text.endswith("[assistant] ") for text in texts] == [False, True, False, True]
    assert texts[2].endswith("Well,") and "Well,\n" in texts[3], "the last message is continued, or is over"


# --- how a tokenizer is loaded


def test_a_plain_tokenizer_is_loaded_without_torch_and_is_what_auto_tokenizer_gives(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    given = job(Path("assets/demo-model").resolve(), from_row)
    assert tokenizer._is_plain(Path(given.tokenizer))
    mine, auto = tokenizer.load_tokenizer(given), AutoTokenizer.from_pretrained(given.tokenizer)
    assert type(mine) is type(auto)
    for chat in CHATS:
        assert prompt.render(mine, chat, given) == prompt.render(auto, chat, given)
    (tmp_path / "job").write_bytes(pickle.dumps(dataclasses.replace(given, parse_row=None)))
    code = (
        "import pickle, sys; from rayllm_batch.workers.tokenizer import load_tokenizer; "
        "load_tokenizer(pickle.load(open(sys.argv[1], 'rb')));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "job"], check=True)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"}),
        ("tokenizer_config.json", {"auto_map": {}}),
        ("config.json", {"model_type": "mistral"}),
        ("tokenizer.json", None),
        ("config.json", None),
    ],
)
def test_others_are_left_to_auto_tokenizer(file: str, change: Any, tmp_path: Path) -> None:
    shutil.copytree("assets/demo-model", tmp_path, dirs_exist_ok=True)
    if change is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(json.dumps({**json.loads((tmp_path / file).read_text()), **change}))
    assert not tokenizer._is_plain(tmp_path)


# --- errors of the whole job


def test_a_tokenizer_without_a_template(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    mine = AutoTokenizer.from_pretrained(folders["none"])
    mine.chat_template = None
    mine.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no chat template.*set chat_template in the config"):
        prompt.fill([None], [CHATS[0]], [None], job(tmp_path, from_row))
    errors: list[Any] = [None, None]
    prompt.fill([None, None], [CHATS[0], "a text"], errors, job(tmp_path, from_row, task=Completions()))
    assert errors[0].startswith("chat_template: ValueError: Cannot use chat template") and errors[1] is None


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        prompt.fill([None], [CHATS[0]], [None], job(tmp_path, from_row))
    assert str(tmp_path) in str(caught.value)


# --- the columns of the output


@pytest.mark.parametrize("column", ["error", "generated_text", run_columns.TOKEN_IDS])
def test_an_input_column_with_the_name_of_an_output_column_is_refused(column: str) -> None:
    with pytest.raises(DatasetError, match="rename_columns") as caught:
        run_columns.check_input_columns(["id", column], Generate())
    assert repr(column) in str(caught.value) and "'id'" not in str(caught.value)
    run_columns.check_input_columns(["id", "article"], Generate())


def test_answers_replace_the_stage_columns_and_keep_one_schema(folders: dict[str, Path]) -> None:
    table = prompt.build_prompts(chats(CHATS[0], CHATS[1]), job(folders["none"], from_row))
    good = an_answer("text", 5, 1, "stop")
    mixed = run_columns.with_answers(table, [good, a_failure("engine: it broke")], Generate())
    assert mixed.column_names == ["chat", "id", *Generate().schema.names]
    assert mixed.schema == run_columns.with_answers(table, [good, good], Generate()).schema
    failed = mixed.to_pylist()[1]
    assert failed["error"] == "engine: it broke" and failed["finish_reason"] == "error"
    assert (failed["generated_text"], failed["num_input_tokens"], failed["num_generated_tokens"]) == (None, 0, 0)
    assert run_columns.with_answers(table, [a_failure("x")] * 2, Generate()).schema == mixed.schema, (
        "also where no row has an answer"
    )


# --- the last message is the assistant's


@pytest.mark.parametrize(
    "begun", ["The answer is", "Two\nlines", "  with spaces  ", "Größe 🙂", [{"type": "text", "text": "A part"}]]
)
def test_an_answer_that_is_begun_is_continued(begun: Any, folders: dict[str, Path]) -> None:
    messages = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": begun}]
    given = job(folders["template"], from_row)
    continued, other = built(chats(messages, CHATS[0]), given)
    text = tokenizer.decode(continued[run_columns.TOKEN_IDS], given)
    assert (
        text.rstrip().endswith((begun if isinstance(begun, str) else "A part").strip()) and text.count("How many?") == 1
    )
    assert other[run_columns.TOKEN_IDS] == built(chats(CHATS[0]), given)[0][run_columns.TOKEN_IDS], (
        "a row beside it is asked as ever"
    )


def test_an_answer_that_is_begun_with_nothing_is_an_answer_to_come(folders: dict[str, Path]) -> None:
    given = job(folders["template"], from_row)
    empty, asked = built(chats([*CHATS[0], {"role": "assistant", "content": " "}], CHATS[0]), given)
    assert empty[run_columns.TOKEN_IDS] == asked[run_columns.TOKEN_IDS]


def test_a_template_that_alters_what_is_begun(folders: dict[str, Path]) -> None:
    upper = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | upper }}{% endfor %}"
    [row] = built(
        chats([*CHATS[0], {"role": "assistant", "content": "so far"}]),
        job(folders["template"], from_row, chat_template=upper),
    )
    assert row[run_columns.TOKEN_IDS] is None and row[run_columns.STAGE_ERROR].startswith("chat_template: ")


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_user_code_that_would_end_the_process(error: BaseException, folders: dict[str, Path]) -> None:
    def end() -> None:
        raise error

    assert only_row_1_fails(folders["none"], end).startswith(f"parse_row: {type(error).__name__}")


TRIMS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.mark.parametrize("begun", ["The answer is ", "Two\nlines\n\n", " so far\t"])
def test_the_space_behind_what_is_begun_stays(begun: str, folders: dict[str, Path]) -> None:
    """Whether the template keeps the space around messages or not."""
    for template in (None, TRIMS):
        given = job(folders["template"], from_row, chat_template=template)
        [row] = built(chats([*CHATS[0], {"role": "assistant", "content": begun}]), given)
        assert tokenizer.decode(row[run_columns.TOKEN_IDS], given).endswith(begun.lstrip())


@pytest.mark.parametrize("more", [{"reasoning_content": "because"}, {"tool_calls": [{"name": "add", "arguments": {}}]}])
def test_what_cannot_be_continued(more: dict[str, Any], folders: dict[str, Path]) -> None:
    error = only_row_1_fails(
        folders["none"], lambda: {"messages": [*CHATS[0], {"role": "assistant", "content": "", **more}]}
    )
    assert error.startswith("chat_template: ") and "only its content can be continued" in error


def test_an_answer_with_generation_tags(folders: dict[str, Path]) -> None:
    tagged = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<a>{{ m.content }}</a>{% endgeneration %}"
        "{% else %}<u>{{ m.content }}</u>{% endif %}{% endfor %}"
    )
    given = job(folders["template"], from_row, chat_template=tagged)
    [row] = built(chats([*CHATS[0], {"role": "assistant", "content": "It is"}]), given)
    assert tokenizer.decode(row[run_columns.TOKEN_IDS], given).endswith("</u><a>It is")


# --- what a template loses


QWENS = (
    "{% for m in messages %}{% if m.role in ['system', 'user'] %}<{{ m.role }}>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<assistant>{{ m.content.split('</think>')[-1] }}{% endif %}{% endfor %}<assistant>"
)


@pytest.mark.parametrize("role", ["developer", "human", "User", "function"])
def test_a_message_that_a_template_leaves_out_without_a_word(role: str, folders: dict[str, Path]) -> None:
    messages = {
        "with another": [{"role": role, "content": "Answer in French."}, *CHATS[0]],
        "alone": [{"role": role, "content": "Hello"}],
    }
    out = built(chats(*messages.values(), CHATS[0]), job(folders["template"], from_row, chat_template=QWENS))
    for row in out[:2]:
        assert (
            row[run_columns.STAGE_ERROR]
            == f"chat_template: ValueError: the template leaves out the message of the {role!r}"
        )
    assert out[2][run_columns.STAGE_ERROR] is None


NAMED = (
    "{% for m in messages %}{{ m.name or m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}\n{% endfor %}"
)
THINKS = (
    "{% for m in messages %}{{ m.role }}: {{ m.get('reasoning_content', '') if loop.last else '' }}"
    "{{ m.content }}\n{% endfor %}"
)


def test_names_that_a_template_leaves_out(folders: dict[str, Path]) -> None:
    chat = [{"role": "user", "content": "Hi", "name": "Ada"}, {"role": "tool", "content": "4", "name": "add"}]
    for template, error in (
        (NAMED, None),
        (THINKS, "chat_template: ValueError: the template leaves out the 'name' of the 'user'"),
    ):
        named, tool = built(chats(chat, chat[1:]), job(folders["template"], from_row, chat_template=template))
        assert tool[run_columns.STAGE_ERROR] is None and (named[run_columns.STAGE_ERROR] or "").startswith(error or "")
        assert (named[run_columns.STAGE_ERROR] is None) == (error is None)


def test_thoughts_that_a_template_does_not_read(folders: dict[str, Path]) -> None:
    def asked(template: str, key: str) -> str | None:
        chat = [{"role": "assistant", "content": "4", key: "two and two"}, {"role": "user", "content": "Sure?"}]
        return built(chats(chat), job(folders["template"], from_row, chat_template=template))[0][
            run_columns.STAGE_ERROR
        ]

    assert asked(THINKS, "reasoning_content") is None, "of earlier turns it leaves them out on purpose"
    for key in ("reasoning", "thinking"):
        assert f"does not read '{key}' of a message; it reads 'reasoning_content'" in asked(THINKS, key)
        assert f"does not read '{key}' of a message; leave it out" in asked(NAMED, key)


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (
            QWENS,
            [*CHATS[0], {"role": "assistant", "content": "<think>hm</think>Yes."}, {"role": "user", "content": "Why?"}],
        ),
        (QWENS, [{"role": "system", "content": " "}, *CHATS[0]]),
        ("{% for m in messages %}{{ m.role }}: {{ m.content | upper }} {% endfor %}", CHATS[1]),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content | tojson }} {% endfor %}",
            [{"role": "tool", "content": 'two "quoted" words'}],
        ),
        (
            "{{ messages[0].content }}{% if messages[1].content != 'quiet' %}{{ raise_exception('no') }}{% endif %}",
            [*CHATS[0], {"role": "tool", "content": "quiet"}],
        ),
    ],
    ids=["thoughts", "blank", "upper case", "escaped", "looked at"],
)
def test_what_a_template_makes_of_a_message_is_its_own_affair(
    template: str, messages: list[dict[str, Any]], folders: dict[str, Path]
) -> None:
    [row] = built(chats(messages), job(folders["template"], from_row, chat_template=template))
    assert row[run_columns.STAGE_ERROR] is None


# --- what ends a process


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception."""


def test_a_tokenizer_that_panics(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encode = prompt._encode

    def panics(tokenizer: Any, texts: list[str], plain: bool) -> list[np.ndarray]:
        if any("poison" in text for text in texts):
            raise Panic("called `Option::unwrap()` on a `None` value")
        return encode(tokenizer, texts, plain)

    monkeypatch.setattr(prompt, "_encode", panics)
    error = only_row_1_fails(folders["none"], lambda: {"messages": [{"role": "user", "content": "poison"}]})
    assert error.startswith("tokenize: Panic: called")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ messages[7].content.x }}",
        "{{ 1 // 0 }}",
    ],
    ids=["loop", "recursion", "undefined", "division"],
)
def test_a_template_that_fails_is_the_rows_error(template: str, folders: dict[str, Path]) -> None:
    [row] = built(chats(CHATS[0]), job(folders["template"], from_row, chat_template=template))
    assert row[run_columns.STAGE_ERROR].startswith("chat_template: ")


@pytest.mark.parametrize(
    "content",
    ["a\x00b", "\ufffe\uffff", "x" * 1_000_000, "\u202e\u200b", "<|end|>"],
    ids=["NUL", "noncharacters", "long", "marks", "special"],
)
def test_odd_text_reaches_the_model(content: str, folders: dict[str, Path]) -> None:
    given = job(folders["none"], from_row)
    [row] = built(chats([{"role": "user", "content": content}]), given)
    assert row[run_columns.STAGE_ERROR] is None and content in tokenizer.decode(row[run_columns.TOKEN_IDS], given)
