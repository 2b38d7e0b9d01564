"""The CPU stage of tasks that pool, against transformers' own tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pooled_rows
import pytest
import tiny_models
import tokenizer_builders
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rayllm_batch.output import run_columns

QUERY = "what is the town?"
DOCUMENTS = ["the council of the town.", "rain and storm in the garden", "train"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {
        "BertModel": tiny_models.bert(root / "embed", "BertModel"),
        "cross": tiny_models.bert(root / "cross", "BertForSequenceClassification", num_labels=1),
        "rerank": tiny_models.reranker(root / "rerank"),
    }


def stage(model: str, task: str, rows: list[dict[str, Any]], fields: Any = None, **given: Any) -> list[dict[str, Any]]:
    table, _ = pooled_rows.prompts(pooled_rows.config_of(model, task, **given), rows, **(fields or {}))
    found = run_columns.stage_rows(table)
    for row in found:
        row["own"] = json.loads(row[run_columns.REQUEST] or "{}")
        row["ids"] = None if row[run_columns.TOKEN_IDS] is None else row[run_columns.TOKEN_IDS].tolist()
    return found


def test_a_text_has_the_tokenizers_special_tokens_once(models: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models["BertModel"])
    found = stage(models["BertModel"], "embed", [{"prompt": text} for text in DOCUMENTS])
    assert [row["ids"] for row in found] == [tokenizer(text)["input_ids"] for text in DOCUMENTS]
    assert not any(row["own"] for row in found)


@pytest.mark.parametrize("most", [3, 6])
def test_a_text_that_is_too_long_is_cut_as_the_tokenizer_cuts(models: dict[str, str], most: int) -> None:
    tokenizer, limit = AutoTokenizer.from_pretrained(models["BertModel"]), {"truncate_prompt_tokens": most}
    fields = {"pooling_params": limit}
    found = stage(models["BertModel"], "embed", [{"prompt": text} for text in DOCUMENTS], fields)
    cut = [tokenizer(text, truncation=True, max_length=most)["input_ids"] for text in DOCUMENTS]
    assert [row["ids"] for row in found] == cut and cut[0][-1] == tokenizer.sep_token_id
    assert [row["own"].get("truncated", False) for row in found] == [
        True,
        True,
        len(tokenizer(DOCUMENTS[2]).input_ids) > most,
    ]
    pair = stage(models["cross"], "score", [{"query": QUERY, "document": DOCUMENTS[0]}], fields)[0]
    assert pair["ids"] == tokenizer(QUERY, DOCUMENTS[0], truncation=True, max_length=most)["input_ids"]
    [ids] = stage(models["BertModel"], "embed", [{"prompt_token_ids": list(range(9))}], fields)
    assert ids["ids"] == list(range(most)) and ids["own"] == {"truncated": True}


def test_pairs_with_their_token_types(models: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models["cross"])
    rows = [{"query": QUERY, "documents": DOCUMENTS}, {"query": QUERY, "document": DOCUMENTS[1]}]
    several, one = stage(models["cross"], "score", rows)
    pairs = [tokenizer(QUERY, document) for document in DOCUMENTS]
    assert several["ids"] == [token for pair in pairs for token in pair["input_ids"]]
    assert several["own"]["lengths"] == [len(pair["input_ids"]) for pair in pairs]
    assert several["own"]["second_texts"] == [pair["token_type_ids"].index(1) for pair in pairs]
    assert several["own"]["is_list"] and "is_list" not in one["own"] and one["ids"] == pairs[1]["input_ids"]


def test_both_texts_of_a_bi_encoder(models: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models["BertModel"])
    [row] = stage(models["BertModel"], "score", [{"query": QUERY, "document": DOCUMENTS[0]}])
    texts = [tokenizer(text)["input_ids"] for text in (QUERY, DOCUMENTS[0])]
    assert row["ids"] == [*texts[0], *texts[1]] and row["own"] == {"lengths": [len(text) for text in texts]}


LLM = {"hf_overrides": {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}}
LLM["hf_overrides"]["is_original_qwen3_reranker"] = True  # type: ignore[assignment]


def test_a_pair_in_the_template_of_the_config(models: dict[str, str]) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(models["rerank"])
    rows = [{"query": QUERY, "document": DOCUMENTS[0]}]
    [row] = stage(models["rerank"], "score", rows, engine_kwargs=LLM)
    assert row["ids"] == tokenizer(QUERY + DOCUMENTS[0])["input_ids"] and "second_texts" not in row["own"]
    template = "Q: {{ messages[0].content }} D: {{ messages[1].content }} A:"
    [row] = stage(models["rerank"], "score", rows, engine_kwargs=LLM, chat_template=template)
    assert row["ids"] == tokenizer(f"Q: {QUERY} D: {DOCUMENTS[0]} A:")["input_ids"]
    [row] = stage(models["rerank"], "score", rows, engine_kwargs=LLM, chat_template="Q: {{ messages[0].content }}")
    assert "chat_template: " in row[run_columns.STAGE_ERROR] and "leaves out" in row[run_columns.STAGE_ERROR]


def test_a_chat_begins_no_answer_and_one_bad_row_is_its_own_affair(tmp_path: Path) -> None:
    folder = tokenizer_builders.byte_level_bpe(tmp_path / "model", bos_in_template=True, bos_by_tokenizer=True)
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes."}]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [
        {"messages": chat},
        {"prompt": "half \ud800"},
        {"messages": [{"role": "judge", "content": "?"}]},
        {"prompt": "x"},
    ]
    good, half, unknown, last = stage(str(folder), "embed", rows)
    assert good["ids"] == tokenizer.apply_chat_template(chat, return_dict=False)
    assert "half of a surrogate pair" in half[run_columns.STAGE_ERROR]
    assert "unknown role judge" in unknown[run_columns.STAGE_ERROR] and last["ids"] == tokenizer("x")["input_ids"]


def test_a_tokenizer_without_a_backend(tmp_path: Path) -> None:
    folder = tokenizer_builders.python_only(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "t5", "d_model": 8}')
    fields = {"pooling_params": {"truncate_prompt_tokens": 5}}
    long, short = stage(str(folder), "embed", [{"prompt": "longer"}, {"prompt": "x"}], fields)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert long["ids"] == tokenizer("longer", truncation=True, max_length=5)["input_ids"] and len(long["ids"]) == 5
    assert short["ids"] == tokenizer("x")["input_ids"] and long["own"] == {"truncated": True} and short["own"] == {}
