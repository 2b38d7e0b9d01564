"""Tasks that pool: what follows from the model's files, what parse_row may return, and which columns come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.engine.base import Reply
from rayllm_batch.errors import ConfigError, WorkloadError
from rayllm_batch.output import run_columns
from rayllm_batch.output.fingerprint import describe_job
from rayllm_batch.tasks import TASKS
from rayllm_batch.tasks.base import TASK_FIELDS, Answer

ENCODER = {"architectures": ["BertModel"], "hidden_size": 64}
CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "hidden_size": 64}
LABELS = {"id2label": {"1": "money", "0": "weather", "2": "other"}}
RERANKER = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}
RERANKER["is_original_qwen3_reranker"] = True


class Rows(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return row


def task_of(
    name: str, model: Any = ENCODER, folder: Path | None = None, kwargs: dict[str, Any] | None = None, **fields: Any
) -> Any:
    kwargs = kwargs or {}
    return TASKS.get(name).of(Rows(**fields), kwargs).of_model(model, folder, kwargs)


def parsed(name: str, row: Any, model: Any = ENCODER, **fields: Any) -> dict[str, Any]:
    return task_of(name, model, **fields).parse(lambda given: given, row)


def columns_of(task: Any, *vectors: Any, own_text: str | None = None, error: str | None = None) -> dict[str, Any]:
    reply = Reply("", 0, "stop", vectors=tuple(np.array(one, np.float32) for one in vectors)) if vectors else None
    answer = Answer(num_input_tokens=7, reply=reply, error=error, own_text=own_text)
    answer.is_truncated = task.was_truncated(own_text)
    return run_columns.with_answers(pa.table({"id": [1]}), [answer], task).to_pylist()[0]


@pytest.mark.parametrize("name", ["embed", "score"])
@pytest.mark.parametrize("architecture", ["HF_ColBERT", "ColBERTModernBertModel", "ColPaliForRetrieval", "ColQwen3"])
def test_models_that_compare_token_by_token(name: str, architecture: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"a vector for each token.*its files say {architecture}"):
        task_of(name, {"architectures": [architecture], "hidden_size": 64})
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "pylate.models.Dense.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="its files say pylate"):
        task_of(name, ENCODER, tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]},
        {"prompt": "a", "image": b"x"},
    ],
)
def test_pictures_are_for_another_task(row: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="only text is taken: pictures, sound and film are for task: generate"):
        parsed("embed", row)
    with pytest.raises(TypeError, match='"documents" must be a text'):
        parsed("score", {"query": "a", "documents": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]})


def test_the_size_of_an_embedding(tmp_path: Path) -> None:
    def size(model: Any, folder: Path | None = None, **more: Any) -> pa.DataType:
        return task_of("embed", model, folder, **more).schema.field("embedding").type

    assert size(ENCODER) == pa.list_(pa.float32(), 64)
    assert size({"text_config": {"hidden_size": 32}, "hidden_size": 64}) == pa.list_(pa.float32(), 32)
    assert size({"architectures": ["DistilBertModel"], "dim": 48}) == pa.list_(pa.float32(), 48)
    assert size(ENCODER, kwargs={"hf_overrides": {"embedding_size": 16}}) == pa.list_(pa.float32(), 16)
    assert size(ENCODER, embedding_dtype="float16") == pa.list_(pa.float16(), 64)
    tiny_models.sentence_transformer(tmp_path, dense=24)
    assert size(ENCODER, tmp_path) == pa.list_(pa.float32(), 24)
    with pytest.raises(ConfigError, match="hf_overrides: {embedding_size"):
        size({})
    with pytest.raises(WorkloadError, match="embedding_dtype must be one of float32, float16, given str: 'half'"):
        size(ENCODER, embedding_dtype="half")


def test_dimensions_are_of_a_model_that_was_trained_for_them() -> None:
    cut = {"pooling_params": {"dimensions": 32}}
    assert task_of("embed", {**ENCODER, "is_matryoshka": True}, **cut).size == 32
    assert task_of("embed", ENCODER, kwargs={"hf_overrides": {"is_matryoshka": True}}, **cut).size == 32
    listed = {**ENCODER, "matryoshka_dimensions": [16, 32]}
    assert task_of("score", listed, **cut).size == 32
    with pytest.raises(ConfigError, match=r"hf_overrides: {is_matryoshka: true}"):
        task_of("embed", ENCODER, **cut)
    with pytest.raises(ConfigError, match="must be one of 16, 32 for this model, given 24"):
        task_of("embed", listed, pooling_params={"dimensions": 24})
    with pytest.raises(ConfigError, match="must be at most 64 for this model, given 65"):
        task_of("embed", {**ENCODER, "is_matryoshka": True}, pooling_params={"dimensions": 65})


def test_labels() -> None:
    task = task_of("classify", {**CLASSIFIER, **LABELS})
    assert task.labels == ("weather", "money", "other") and not task.has_several
    assert task.schema.field("probabilities").type == pa.list_(pa.float32(), 3)
    assert task.legend == "The column `probabilities` has, in this order: weather, money, other."
    assert task_of("classify", CLASSIFIER).labels == ("LABEL_0", "LABEL_1")
    assert task_of("classify", CLASSIFIER, kwargs={"hf_overrides": {"num_labels": 4}}).size == 4
    assert task_of("classify", ENCODER, kwargs={"convert": "classify"}).size == 2
    with pytest.raises(ConfigError, match="no classifier: its config.json has architectures BertModel"):
        task_of("classify", ENCODER)
    with pytest.raises(ConfigError, match="hf_overrides: {id2label"):
        task_of("classify", {})


def test_what_scores() -> None:
    bi, cross = task_of("score", ENCODER), task_of("score", {**CLASSIFIER, "num_labels": 1, "type_vocab_size": 2})
    assert not bi.pairs() and bi.size == 64 and bi.engine_settings({}) == {"runner": "pooling", "convert": "embed"}
    assert cross.pairs() and cross.with_separator and cross.with_token_types
    assert cross.engine_settings({})["convert"] == "classify" == cross.pooling_task
    llm = task_of("score", RERANKER)
    assert llm.pairs() and not llm.with_separator and not llm.with_token_types and llm.size == 1
    with pytest.raises(ConfigError, match="one label, but this one has 3: weather, money, other"):
        task_of("score", {**CLASSIFIER, **LABELS})


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("embed", {"text": "a"}, "'text' would have no effect: a text goes into \"prompt\""),
        ("embed", {"prompt": "a", "dimensions": 3}, "a setting goes into its pooling_params"),
        ("embed", {"prompt": "a", "sampling_params": {}}, "settings of these tasks are pooling_params"),
        ("embed", {"prompt": ""}, '"prompt" must be a text that is not empty'),
        ("embed", {"prompt": "a", "messages": []}, "one of messages, prompt, prompt_token_ids"),
        ("embed", {"prompt_token_ids": []}, "a list of at least one token id"),
        ("embed", "a", "but returned str: 'a'"),
        ("embed", {"prompt": "a", "pooling_params": {"truncate_prompt_tokens": 3}}, "changes the output's columns"),
        (
            "embed",
            {"prompt": "a", "pooling_params": {"use_activation": 3}},
            "this row's pooling_params must be true or",
        ),
        ("embed", {"prompt": "a", "model": 3}, "the name of a LoRA adapter"),
        ("score", {"query": "a"}, 'must return {"query": "...", "document": "..."}'),
        ("score", {"query": "a", "document": "b", "documents": ["b"]}, "but returned dict"),
        ("score", {"query": "a", "documents": []}, "a list of at least one text"),
        ("score", {"query": "a", "documents": ["b", None]}, '"documents" must be a text that is not empty'),
        ("score", {"query": "a", "documents": "b"}, "a list of at least one text"),
        ("score", {"query": "a", "dokument": "b"}, "Did you mean 'document'"),
        ("score", {"prompt": "a"}, 'must return {"query": "...", "document": "..."}'),
    ],
)
def test_what_a_row_may_not_have(task: str, row: Any, said: str) -> None:
    with pytest.raises((TypeError, WorkloadError)) as raised:
        parsed(task, row)
    assert said in str(raised.value)


def test_what_a_row_may_have() -> None:
    assert parsed("embed", {"prompt": "a", "pooling_params": None, "model": "red"}) == {"prompt": "a", "model": "red"}
    assert parsed("embed", {"prompt_token_ids": [1, 2]})["prompt_token_ids"].dtype == np.int32
    chat = [{"role": "user", "content": "a"}]
    assert parsed("embed", {"messages": chat})["messages"] == chat
    assert parsed("score", {"query": "a", "document": "b"}) == {"query": "a", "documents": ["b"]}
    assert parsed("score", {"query": "a", "documents": np.array(["b", "c"], object)})["is_list"]
    own = {"truncate_prompt_tokens": 3}
    assert (
        parsed("embed", {"prompt": "a", "pooling_params": own}, pooling_params={"truncate_prompt_tokens": 9})[
            "pooling_params"
        ]
        == own
    )


def test_columns() -> None:
    embed = task_of("embed", {"hidden_size": 2}, pooling_params={"truncate_prompt_tokens": 9})
    row = columns_of(embed, [0.6, 0.8], own_text='{"truncated": true}')
    assert row["embedding"] == pytest.approx([0.6, 0.8]) and row["truncated"] is True and row["num_input_tokens"] == 7
    assert (
        columns_of(embed, error="no")["embedding"] is None
        and columns_of(embed, [0, 1], error="no")["embedding"] is None
    )
    one = columns_of(task_of("classify", {**CLASSIFIER, **LABELS}), [0.2, 0.7, 0.1])
    assert one["label"] == "money" and one["probabilities"] == pytest.approx([0.2, 0.7, 0.1]) and "labels" not in one
    several = {**CLASSIFIER, **LABELS, "problem_type": "multi_label_classification"}
    assert columns_of(task_of("classify", several), [0.9, 0.6, 0.1])["labels"] == ["weather", "money"]
    logits = task_of("classify", several, pooling_params={"use_activation": False})
    assert columns_of(logits, [0.4, -0.6, -1])["labels"] == ["weather"]
    bi = task_of("score", {"hidden_size": 2})
    assert columns_of(bi, [1, 0], [0, 3], [2, 2], own_text='{"is_list": true}')["scores"] == pytest.approx(
        [0, 0.5**0.5]
    )
    row = columns_of(bi, [1, 0], [2, 2])
    assert row["score"] == pytest.approx(0.5**0.5) and row["scores"] is None
    assert columns_of(bi, [1, 0], [0, 0])["score"] == 0
    assert columns_of(task_of("score", RERANKER), [0.9])["score"] == pytest.approx(0.9)


def test_a_request() -> None:
    task = task_of("score", ENCODER, pooling_params={"truncate_prompt_tokens": 9, "use_activation": False})
    own = task.own_text({"query": "a", "documents": ["b"], "lengths": [2, 3], "truncated": True, "is_list": True})
    request = task.request([1, 2, 3, 4, 5], own)
    assert request.settings == {"use_activation": False} and task.is_repeatable(request)
    assert (request.pooling.task, request.pooling.size, request.pooling.lengths) == ("embed", 64, (2, 3))
    assert task.own_text({"prompt": "a", "truncated": False}) is None
    assert task_of("embed").request([1, 2], None).pooling.lengths == (2,)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampling_params": {"max_tokens": 3}}, "task: embed generates nothing: its settings are pooling_params"),
        ({"output_schema": {}}, "has output_schema"),
        ({"output_schema": ["a"]}, "has output_schema, which is for task: generate, not embed"),
        ({"pooling_params": {"truncate_prompt_tokens": -1}}, "cuts at max_model_len, which engine_kwargs does not set"),
    ],
)
def test_what_a_workload_may_not_have(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        task_of("embed", **fields)
    assert task_of("embed", kwargs={"max_model_len": 32}, pooling_params={"truncate_prompt_tokens": -1}).settings == {
        "truncate_prompt_tokens": 32
    }
    with pytest.raises(WorkloadError, match="pooling_params, which are for task: embed"):
        TASKS.get("generate").of(Rows(pooling_params={"dimensions": 3}), {})


CONFIG = {"model_id": "assets/demo-model", "llm_engine": "vllm", "accelerator_type": "CPU"}


@pytest.mark.parametrize(
    ("task", "kwargs", "said"),
    [
        (
            "embed",
            {"runner": "generate"},
            "runner: generate under engine_kwargs in .* contradicts task: embed, for which",
        ),
        ("embed", {"convert": "classify"}, "for which it is auto or none or embed"),
        ("classify", {"convert": "embed"}, "contradicts task: classify"),
        ("score", {"convert": "reward"}, "one of auto, none, embed, classify|for which it is auto or none or embed"),
        ("embed", {"speculative_config": {"method": "ngram"}}, "is for what a model generates"),
        ("embed", {"reasoning_parser": "qwen3"}, "is for what a model generates"),
        ("generate", {"runner": "pooling"}, "Set task: embed, classify or score"),
    ],
)
def test_an_engine_that_contradicts_the_task(task: str, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        init_engine_from_config({**CONFIG, "task": task, "engine_kwargs": kwargs})


def test_whose_answers_they_are() -> None:
    def settings(task: str, **fields: Any) -> dict[str, str]:
        job = describe_job(init_engine_from_config({**CONFIG, "task": task}), Rows(**fields), None)
        assert not {f"workload.{name}" for name in TASK_FIELDS} & job.hints.keys()
        return job.settings

    assert "workload.pooling_params" not in settings("generate")
    one, other = settings("embed"), settings("embed", pooling_params={"use_activation": False})
    assert {key for key in one if one[key] != other[key]} == {"workload.pooling_params"} and one["task"] == "embed"
    assert settings("embed", embedding_dtype="float16") != one


def test_the_shipped_rerankers_prompt_is_that_of_its_card() -> None:
    import transformers

    config = init_engine_from_config("configs/qwen3-reranker-0.6b-l4.yaml")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained("assets/demo-model")
    pair = [{"role": "query", "content": "Where?"}, {"role": "document", "content": "Here."}]
    prompt = tokenizer.apply_chat_template(pair, chat_template=config.chat_template, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: Where?\n"
        "<Document>: Here.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    task = TASKS.get("score").of(Rows(), {}).of_model({"hidden_size": 1024}, None, config.engine_kwargs)
    assert task.pairs() and task.size == 1
