"""A model's facts against a GPU, a disk and the need of a chat template: facts from folders, and by hand."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ClusterError, ConfigError, ModelNotFoundError
from rayllm_batch.run import model_check
from rayllm_batch.run.model_check import (
    GIB,
    ModelFacts,
    check_chat_template,
    check_disk,
    check_files,
    check_memory,
    check_parallel,
    kv_bytes_per_token,
    kv_values_per_token,
    look_at,
)

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

# From the models' pages: config.json, and the sum of the safetensors files.
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "intermediate_size": 14336,
}
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
}
LLAMA_1B = {**LLAMA_8B, "hidden_size": 2048, "num_hidden_layers": 16, "head_dim": 64, "intermediate_size": 8192}
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
    "sliding_window": 131072,
    "use_sliding_window": False,
}
SIZES = {  # of what a pooling model gives
    "bge-base-en-v1.5-l4": 768,
    "demo-classify-cpu": 6,
    "demo-embed-cpu": 256,
    "multilingual-e5-large-l4": 1024,
    "qwen3-embedding-0.6b-l4": 1024,
    "qwen3-reranker-0.6b-l4": 1,
}
QWEN3_600M = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 768, "torch_dtype": "float32"}
E5 = {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "hidden_size": 1024, "torch_dtype": "float32"}
QWEN_VL_3B = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}
FACTS = {
    "meta-llama/Llama-3.1-8B-Instruct": ModelFacts(LLAMA_8B, 16_060_556_376, True),
    "meta-llama/Llama-3.3-70B-Instruct": ModelFacts(LLAMA_70B, 141_107_497_872, True),
    "meta-llama/Llama-3.2-1B-Instruct": ModelFacts(LLAMA_1B, 2_471_645_608, True),
    "Qwen/Qwen2.5-7B-Instruct": ModelFacts(QWEN_7B, 15_231_271_864, True),
    # Of the following the size is of their parameters, in the type that they are kept in.
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelFacts(QWEN_VL_3B, 2 * 3_755_000_000, True),
    "Qwen/Qwen3-Embedding-0.6B": ModelFacts(QWEN3_600M, 2 * 596_000_000, True),
    "Qwen/Qwen3-Reranker-0.6B": ModelFacts(QWEN3_600M, 2 * 596_000_000, True),
    "BAAI/bge-base-en-v1.5": ModelFacts(BERT, 4 * 109_000_000, False),
    "intfloat/multilingual-e5-large": ModelFacts(E5, 4 * 560_000_000, False),
}
LLAMA = FACTS["meta-llama/Llama-3.1-8B-Instruct"]


def config(accelerator: str = "A10G", model: str = "org/model", **engine_kwargs: Any) -> EngineConfig:
    return init_engine_from_config(
        {"model_id": str(model), "llm_engine": "vllm", "accelerator_type": accelerator, "engine_kwargs": engine_kwargs}
    )


def facts(weights_gib: float, **changed: Any) -> ModelFacts:
    return ModelFacts({**LLAMA_8B, **changed}, int(weights_gib * GIB))


def refusal(config: EngineConfig, facts: ModelFacts) -> str:
    with pytest.raises(ConfigError) as caught:
        check_memory(config, facts)
    return str(caught.value)


# --- memory


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configs_pass(path: Path) -> None:
    shipped = init_engine_from_config(path)
    of_model = look_at(shipped, "") if Path(shipped.model_id).is_dir() else FACTS[shipped.model_id]
    check_memory(shipped, of_model)
    if shipped.task_kind.pools:
        task = shipped.task_kind.of(ChatWorkloadBase(), shipped.engine_kwargs)
        assert task.of_model(of_model.config, of_model.folder, shipped.engine_kwargs).size == SIZES[path.stem]
    else:
        check_chat_template(shipped, of_model)


def test_each_engine_on_a_shared_gpu_has_the_whole_model() -> None:
    shared = {"model_id": "org/model", "llm_engine": "vllm", "accelerator_type": "A10G", "engines_per_gpu": 2}
    fits = init_engine_from_config({**shared, "engine_kwargs": {"max_model_len": 4096}})
    check_memory(fits, facts(9))  # by hand: 22.5 GiB x 0.45 are 10.1
    message = refusal(fits, facts(11))
    for words in ("take 11.0 GiB a GPU", "gpu_memory_utilization=0.45", "10.1 GiB"):
        assert words in message


def test_keys_and_values_of_known_models() -> None:
    assert 2 * kv_values_per_token(LLAMA_8B) == 128 * 1024
    assert 2 * kv_values_per_token(LLAMA_70B) == 320 * 1024
    assert 2 * kv_values_per_token(QWEN_7B) == 56 * 1024, "it has a sliding window, and does not use it"
    assert kv_values_per_token({**LLAMA_8B, "num_key_value_heads": None}) == 4 * kv_values_per_token(LLAMA_8B), "no GQA"
    assert kv_values_per_token({**LLAMA_8B, "head_dim": 256}) == 2 * kv_values_per_token(LLAMA_8B)
    assert kv_values_per_token({**LLAMA_8B, "layer_types": ["full_attention"] * 32}) == kv_values_per_token(LLAMA_8B)
    assert kv_values_per_token({"model_type": "llava", "text_config": LLAMA_8B}) == kv_values_per_token(LLAMA_8B)


@pytest.mark.parametrize(
    "unusual",
    [
        {"model_type": "deepseek_v3", "kv_lora_rank": 512},
        {"model_type": "mistral", "sliding_window": 4096},
        {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True},
        {"model_type": "qwen3", "layer_types": ["sliding_attention", "full_attention"]},
        {"model_type": "falcon", "multi_query": True, "num_key_value_heads": None},
        {"model_type": "nemotron-nas", "num_key_value_heads": None},
        {"model_type": "nemotron_h"},
        {"model_type": "jamba"},
        {"model_type": "llama4_text"},
        {"model_type": None},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"hidden_size": "4096"},
    ],
)
def test_attention_that_is_not_known_is_not_refused(unusual: dict) -> None:
    assert kv_values_per_token({**LLAMA_8B, **unusual}) == 0
    check_memory(config(), facts(15, max_position_embeddings=10_000_000, **unusual))


def test_a_context_that_a_small_gpu_cannot_hold() -> None:
    """By hand: 131,072 tokens of 128 KiB are 16 GiB. The A10G's 22.5 GiB x 0.92 are 20.7 GiB, less 15.0 GiB of weights
    and 2 GiB for activations and graphs are 3.74 GiB: 30,655 tokens, in whole 256 30,464."""
    message = refusal(config(max_model_len=131_072), LLAMA)
    for words in (
        "max_model_len=131,072 needs 16.0 GiB",
        "beside 15.0 GiB of weights",
        "one A10G has 22.5 GiB, of which gpu_memory_utilization=0.92 may be used (20.7 GiB)",
        "Set max_model_len to at most 30,464 (or leave it out)",
    ):
        assert words in message
    check_memory(config(max_model_len=30_464), LLAMA)
    check_memory(config(), LLAMA)  # the engine takes what fits


def test_no_length_is_suggested_where_none_would_work() -> None:
    message = refusal(config(max_model_len=40_000), facts(18.8))
    assert "Set max_model_len" not in message and "Raise tensor_parallel_size" in message


@pytest.mark.parametrize("length", [-1, "auto", "8k"])
def test_lengths_that_vllm_makes_fit_itself(length: Any) -> None:
    check_memory(config(max_model_len=length), LLAMA)


def test_weights_that_do_not_fit() -> None:
    assert "take 131.4 GiB a GPU, but one A100 has 80 GiB" in refusal(
        config("A100"), FACTS["meta-llama/Llama-3.3-70B-Instruct"]
    )
    assert "Raise tensor_parallel_size" in refusal(config("T4"), LLAMA)
    check_memory(config(gpu_memory_utilization=0.7, max_model_len=1024), facts(15.5))
    assert "gpu_memory_utilization=0.7" in refusal(config(gpu_memory_utilization=0.7, max_model_len=1024), facts(15.8))


def test_parallel_gpus_share_weights_and_cache() -> None:
    assert refusal(config(), facts(39))
    check_memory(config(tensor_parallel_size=2, max_model_len=8192), facts(39))
    check_memory(config(tensor_parallel_size=2, pipeline_parallel_size=2, max_model_len=131_072), facts(60))
    assert "needs 8.0 GiB of KV cache a GPU beside 19.5 GiB" in refusal(
        config(tensor_parallel_size=2, max_model_len=131_072), facts(39)
    )


def test_quantizing_while_loading() -> None:
    assert refusal(config(max_model_len=1024), facts(30))
    check_memory(config(max_model_len=1024, quantization="fp8"), facts(30))
    assert refusal(config(max_model_len=1024, quantization="fp8"), facts(45))
    check_memory(config(max_model_len=1024, quantization="awq"), facts(75))


def test_a_model_that_is_quantized_takes_what_it_takes_on_disk() -> None:
    quantized = {"quantization_config": {"quant_method": "awq"}, "torch_dtype": "float16"}
    assert refusal(config(max_model_len=1024, quantization="awq"), facts(25, **quantized))
    check_memory(config(max_model_len=1024), facts(20, **quantized))


def test_weights_kept_in_32_bits_are_loaded_in_16() -> None:
    check_memory(config(max_model_len=1024), facts(30, torch_dtype="float32"))
    check_memory(config(max_model_len=1024), facts(30, torch_dtype=None, dtype="float32"))
    check_memory(config(max_model_len=1024), facts(30, torch_dtype=None))  # transformers wrote 32 bits without a word
    assert refusal(config(max_model_len=1024, dtype="float32"), facts(30, torch_dtype="float32"))
    assert "take 30.0 GiB" in refusal(config(max_model_len=1024, dtype="float32"), facts(15))
    assert "needs 16.0 GiB" in refusal(config(dtype="float32", max_model_len=65_536), facts(5))


def test_the_format_of_the_cache() -> None:
    assert "needs 8.0 GiB" in refusal(config(kv_cache_dtype="fp8_e4m3", max_model_len=131_072), LLAMA)
    assert refusal(config(kv_cache_dtype="bfloat16", max_model_len=60_000), LLAMA)
    check_memory(config(kv_cache_dtype="fp8", max_model_len=40_000), LLAMA)
    check_memory(config(kv_cache_dtype="nvfp4", max_model_len=131_072), LLAMA)  # not known here: not refused


@pytest.mark.parametrize(
    ("accelerator", "engine_kwargs"),
    [("GPU", {}), ("B300", {}), ("CPU", {}), ("A10G", {"load_format": "dummy"}), ("A10G", {"cpu_offload_gb": 40})],
)
def test_what_is_not_known_is_not_refused(accelerator: str, engine_kwargs: dict) -> None:
    check_memory(config(accelerator, **engine_kwargs), facts(500))
    check_memory(config(), ModelFacts())
    check_memory(config(max_model_len=100_000), ModelFacts({}, 10 * GIB))


# --- facts of a folder


def folder(at: Path, *, sizes: dict[str, int] | None = None, **files: Any) -> Path:
    """`files`: JSON ones, their names with `__` for the dot."""
    at.mkdir()
    for name, value in files.items():
        (at / name.replace("__", ".")).write_text(json.dumps(value))
    for name, size in (sizes or {}).items():
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).write_bytes(b"\0" * size)
    return at


SHARDS = {"model-00001-of-00002.safetensors": 700, "model-00002-of-00002.safetensors": 300}
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
BIN = {"pytorch_model-00001-of-00002.bin": 600, "pytorch_model-00002-of-00002.bin": 500}


@pytest.mark.parametrize(
    ("sizes", "index", "expected"),
    [
        ({"model.safetensors": 1000}, None, 1000),
        (SHARDS, INDEX, 1000),
        ({**SHARDS, **BIN}, INDEX, 1000),
        ({**SHARDS, **BIN}, None, 1000),
        ({**SHARDS, "model.safetensors": 1000}, INDEX, 1000),
        ({**SHARDS, "consolidated.safetensors": 990}, None, 990),
        ({**SHARDS, "original/consolidated.00.pth": 990, "lora/adapter.safetensors": 50}, INDEX, 1000),
        (BIN, None, 1100),
        ({"model.Q4.gguf": 400, "model.Q8.gguf": 800}, None, None),
        ({}, None, None),
        ({"model-00001-of-00002.safetensors": 700}, INDEX, 700),
    ],
)
def test_bytes_of_the_weights_that_the_engine_reads(
    sizes: dict, index: dict | None, expected: int | None, tmp_path: Path
) -> None:
    files = {"model__safetensors__index__json": index} if index else {}
    model = folder(tmp_path / "model", sizes=sizes, config__json=LLAMA_8B, **files)
    found = look_at(config(model=model), "")
    assert found.weight_bytes == expected and found.config == LLAMA_8B and found.missing_bytes == 0


def test_a_folder_that_only_the_workers_have(tmp_path: Path) -> None:
    for place in ("s3://bucket/model", "gs://bucket/model"):
        assert look_at(config(model=place), "") == ModelFacts()
    gone = config(model=folder(tmp_path / "model"))
    shutil.rmtree(tmp_path / "model")
    assert look_at(gone, "") == ModelFacts()


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"not json", b"\xff\xfe"])
def test_a_config_that_cannot_be_read_is_not_known(content: bytes, tmp_path: Path) -> None:
    model = folder(tmp_path / "model")
    (model / "config.json").write_bytes(content)
    (model / "tokenizer_config.json").write_bytes(content)
    assert look_at(config(model=model), "").config == {}
    check_memory(config(model=model), look_at(config(model=model), ""))


# --- files that are no model


def demo(at: Path) -> Path:
    at.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree("assets/demo-model", at))


def files_problem(given: EngineConfig) -> str:
    with pytest.raises((ConfigError, ModelNotFoundError)) as caught:
        check_files(given, look_at(given, ""))
    return str(caught.value)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "adapter_model.safetensors"])
def test_what_a_training_leaves_is_no_models_weights(name: str, tmp_path: Path) -> None:
    model = demo(tmp_path / "model")
    (model / name).write_bytes(b"anything")
    check_files(config(model=model), look_at(config(model=model), ""))
    (model / "model.safetensors").unlink()
    assert "it has no weights" in files_problem(config(model=model))
    check_files(config(model=model, load_format="dummy"), look_at(config(model=model), ""))
    check_files(config(model=model, load_format="runai_streamer"), look_at(config(model=model), ""))


def test_the_echo_engine_needs_a_tokenizer_alone(tmp_path: Path) -> None:
    model = demo(tmp_path / "model")
    echo = init_engine_from_config({"model_id": str(model), "llm_engine": "echo", "accelerator_type": "CPU"})
    for name in ("config.json", "model.safetensors"):
        (model / name).unlink()
    check_files(echo, look_at(echo, ""))
    (model / "tokenizer.json").write_text("{")
    assert "tokenizer.json is not JSON" in files_problem(echo)


def test_a_tokenizer_of_another_folder(tmp_path: Path) -> None:
    model, other = demo(tmp_path / "model"), demo(tmp_path / "other")
    (model / "tokenizer.json").unlink()
    given = config(model=model, tokenizer=str(other))
    check_files(given, look_at(given, ""))
    (other / "tokenizer.json").write_bytes(b"")
    assert "other' cannot be used: tokenizer.json is empty" in files_problem(given)
    gone = files_problem(config(model=model, tokenizer=str(other / "gone")))
    assert "tokenizer under engine_kwargs is the folder" in gone and "gone', which does not exist" in gone


def in_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the Hub that was downloaded before, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(model_check, "only_here", lambda config: True)
    repository = root / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return demo(repository / "snapshots" / "abc")


def test_a_model_of_the_hub_that_is_half_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = in_the_cache(tmp_path, monkeypatch)
    check_files(config(), look_at(config(), ""))
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(INDEX))
    assert "lists model-00002-of-00002.safetensors, which is not there" in files_problem(config())
    (snapshot / "model-00001-of-00002.safetensors").unlink()
    assert "org/model is not, or not completely, in the cache" in files_problem(config())
    check_files(config(load_format="dummy"), look_at(config(), ""))


def test_a_model_of_the_hub_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(in_the_cache(tmp_path, monkeypatch))
    for given in (config(), config(load_format="dummy")):
        assert "org/model is not, or not completely, in the cache" in files_problem(given)
    monkeypatch.setattr(model_check, "only_here", lambda config: False)
    check_files(config(), look_at(config(), ""))  # the other nodes may have it


def test_what_is_still_to_be_downloaded_is_not_missing(tmp_path: Path) -> None:
    model = demo(tmp_path / "model")
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(INDEX))
    check_files(config(), ModelFacts(folder=model))
    (model / "model-00001-of-00002.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="model-00001-of-00002.safetensors is"):
        check_files(config(), ModelFacts(folder=model))


# --- the chat template


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config__json": {"chat_template": "{{ messages }}"}}, True),
        ({"tokenizer_config__json": {"chat_template": [{"name": "default", "template": "{{ messages }}"}]}}, True),
        ({"tokenizer_config__json": {}, "chat_template__jinja": "{{ messages }}"}, True),
        ({"tokenizer_config__json": {}, "chat_template__json": {"chat_template": "{{ messages }}"}}, True),
        ({"tokenizer_config__json": {"chat_template": None}}, False),
        ({"tokenizer_config__json": {}, "tokenizer__json": {}}, False),
        ({"tokenizer_config__json": {}, "tekken__json": {}}, None),  # mistral_common has its own
        ({"tokenizer__json": {}}, None),
    ],
)
def test_a_chat_template(files: dict, expected: bool | None, tmp_path: Path) -> None:
    model = folder(tmp_path / "model", config__json=LLAMA_8B, **files)
    found = look_at(config(model=model), "")
    assert found.has_chat_template is expected
    if expected is not False:
        check_chat_template(config(model=model), found)
        return
    with pytest.raises(ConfigError, match=r"has no chat template.*instruct version, or set chat_template"):
        check_chat_template(config(model=model), found)
    check_chat_template(config(model=model, tokenizer="org/another"), found)
    own = {"model_id": str(model), "llm_engine": "echo", "accelerator_type": "CPU", "chat_template": "{{ messages }}"}
    check_chat_template(init_engine_from_config(own), found)


# --- the disk


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("missing", "free", "fits"), [(16, 20, True), (16, 16, True), (16, 15, False), (0, 0, True)])
def test_disk_for_what_is_still_to_be_downloaded(
    missing, free, fits, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "there" / "yet"))
    asked = []
    monkeypatch.setattr(model_check.shutil, "disk_usage", lambda path: asked.append(path) or Usage(0, 0, free * GIB))
    found = ModelFacts(LLAMA_8B, 160 * GIB, True, missing_bytes=missing * GIB)
    if fits:
        check_disk(config(), found)
    else:
        with pytest.raises(ClusterError) as caught:
            check_disk(config(), found)
        for words in ("org/model is a download of 16.0 GiB", f"{tmp_path} has 15.0 GiB free", "HF_HOME"):
            assert words in str(caught.value)
    assert asked == ([tmp_path] if missing else [])
    check_disk(config(load_format="dummy"), found)


@pytest.mark.parametrize(("name", "place"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", ".")])
def test_the_disk_that_the_configs_environment_names(name, place, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(model_check.shutil, "disk_usage", lambda path: asked.append(path) or Usage(0, 0, 99 * GIB))
    with_env = init_engine_from_config(
        {
            "model_id": "org/model",
            "llm_engine": "vllm",
            "accelerator_type": "L4",
            "runtime_env": {"env_vars": {name: str(tmp_path)}},
        }
    )
    check_disk(with_env, ModelFacts(LLAMA_8B, GIB, True, missing_bytes=GIB))
    assert asked == [tmp_path / place]


@pytest.mark.parametrize(
    "name",
    [
        "model_type",
        "text_config",
        "rope_scaling",
        "rope_parameters",
        "quantization_config",
        "torch_dtype",
        "dtype",
        "layer_types",
        "head_dim",
        "hidden_size",
        "num_key_value_heads",
        "max_position_embeddings",
        "vocab_size",
    ],
)
@pytest.mark.parametrize("value", [["a"], {"a": {}}, "x", -1.5, True])
def test_odd_values_in_a_config_end_no_check(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, name: value}))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value, "auto_map": value}))
    given = config(model=str(tmp_path), max_model_len=4096)
    found = look_at(given, "")
    check_memory(given, found)
    model_check.longest(config(model=str(tmp_path)), found)
    with pytest.raises(ConfigError):
        check_files(given, found)


MOE = {"model_type": "qwen3_moe", "num_experts": 128, "num_hidden_layers": 2, "num_attention_heads": 32}
MOE |= {"hidden_size": 2048, "num_key_value_heads": 4, "head_dim": 128}


def split(**engine_kwargs: Any) -> EngineConfig:
    given = {"model_id": "org/m", "llm_engine": "vllm", "accelerator_type": "H100", "engine_kwargs": engine_kwargs}
    return init_engine_from_config(given)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"data_parallel_size": 4}, "data_parallel_size=4 is for models of experts.*org/m is none.*num_replicas=4"),
        (
            {"enable_expert_parallel": True},
            "enable_expert_parallel is for models of experts.*org/m is none.*num_replicas",
        ),
    ],
)
def test_experts_are_spread_of_a_model_that_has_some(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_parallel(split(**kwargs), ModelFacts(LLAMA_8B))
    for its in (MOE, {"text_config": MOE}, {"num_local_experts": 8}, {"n_routed_experts": 256}):
        check_parallel(split(**kwargs), ModelFacts(its))
    check_parallel(split(**kwargs), ModelFacts())  # not known: vLLM will say
    check_parallel(split(data_parallel_size=1), ModelFacts(LLAMA_8B))


def test_data_parallel_copies_take_gpus_and_keep_their_own_cache() -> None:
    config = split(data_parallel_size=2, tensor_parallel_size=2)
    assert config.gpus_per_replica == 4
    assert kv_bytes_per_token(config, ModelFacts(MOE)) == 2 * 2 * 2 * 4 * 128 / 2, (
        "K and V, layers, bytes; over two GPUs"
    )


@pytest.mark.parametrize("more", [{"distributed_executor_backend": "ray"}, {"data_parallel_backend": "ray"}])
def test_data_parallel_copies_are_on_one_node(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="GPUs of one node here.*num_replicas"):
        split(data_parallel_size=2, **more)
