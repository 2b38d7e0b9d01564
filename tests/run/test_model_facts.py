"""A model's facts, asked of a loopback Hub: what is read, and what is not downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.errors import HubUnavailableError
from rayllm_batch.model.files import download_model
from rayllm_batch.run import model_check, preflight
from rayllm_batch.run.model_check import ModelFacts, look_at

pytestmark = pytest.mark.usefixtures("isolated")

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": b"\0" * 700,
    "model-00002-of-00002.safetensors": b"\0" * 300,
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "pytorch_model.bin": b"\0" * 1100,
    "original/consolidated.00.pth": b"\0" * 1000,
}
FACTS = ModelFacts(CONFIG, 1000, True, missing_bytes=1000)


def config(model: str, **engine_kwargs: Any):
    return init_engine_from_config(
        {"model_id": model, "llm_engine": "vllm", "accelerator_type": "A10G", "engine_kwargs": engine_kwargs}
    )


def test_sizes_come_without_the_weights(hub, isolated: Path) -> None:
    hub.add("models", "org/model", FILES)
    assert look_at(config("org/model"), "") == FACTS
    assert not list(isolated.rglob("*.safetensors")) and not hub.asked("safetensors", "GET") - hub.asked(
        "index.json", "GET"
    )


def test_what_is_in_the_cache_is_not_missing(hub) -> None:
    hub.add("models", "org/model", FILES)
    hub.fail("model-00002-of-00002.safetensors", 404)
    with pytest.raises(Exception, match="model"):
        download_model("org/model")
    assert look_at(config("org/model"), "").missing_bytes == 300
    hub.faults.clear()
    download_model("org/model")
    found = look_at(config("org/model"), "")
    assert (found.weight_bytes, found.missing_bytes) == (1000, 0)


def test_only_files_without_weights(hub) -> None:
    hub.add(
        "models", "org/tokenizer", {name: data for name, data in FILES.items() if name.startswith(("config", "token"))}
    )
    assert look_at(config("org/tokenizer"), "") == ModelFacts(CONFIG, None, True)


def test_a_gated_model_with_its_token(hub) -> None:
    hub.add("models", "org/gated-model", FILES, gated=True, readers={"alice"})
    assert look_at(config("org/gated-model"), "hf_alice") == FACTS


def test_offline_with_and_without_the_model(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "org/model", FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert look_at(config("org/model"), "") == ModelFacts(), "the workers may have it"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    download_model("org/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    assert look_at(config("org/model"), "") == ModelFacts(CONFIG, 1000, True)
    assert len(hub.requests) == asked


def test_a_model_that_is_not_there_is_the_workers_to_find() -> None:
    assert look_at(config("org/nothing"), "") == ModelFacts()


@pytest.mark.parametrize("cached", [False, True])
def test_a_hub_that_hangs_costs_seconds(cached: bool, hub, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """The limit is 15 s a question; here it is shorter. What the cache has is used."""
    hub.add("models", "org/model", FILES)
    if cached:
        download_model("org/model")
    monkeypatch.setattr("rayllm_batch.model.hub_client.CHECK_SECONDS", 0.3)
    hub.fail("/", 0)
    assert preflight.hub_token(config("org/model")) == ""
    assert "did not answer" in caplog.text
    found = look_at(config("org/model"), "")
    assert found == (ModelFacts(CONFIG, 1000, True) if cached else ModelFacts())
    assert hub.asked("/api/") <= 6, "each question once or twice, not for ever"


def test_a_hub_that_stops_answering_half_way(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files are there by then; their facts are kept."""
    hub.add("models", "org/model", FILES)
    real = model_check.download_model

    def then_fails(*args: Any, **kwargs: Any) -> str:
        folder = real(*args, **kwargs)
        hub.fail("/api/", 500)
        return folder

    monkeypatch.setattr(model_check, "download_model", then_fails)
    monkeypatch.setattr("rayllm_batch.model.hub_client.SERVER_ERROR_RETRIES", 0)
    assert look_at(config("org/model"), "") == ModelFacts(CONFIG, None, True)


def test_the_configs_token_is_asked_first(hub) -> None:
    hub.add("models", "org/gated-model", FILES, gated=True, readers={"alice"})
    with_token = init_engine_from_config(
        {
            "model_id": "org/gated-model",
            "llm_engine": "vllm",
            "accelerator_type": "A10G",
            "runtime_env": {"env_vars": {"HF_TOKEN": "hf_alice"}},
        }
    )
    assert preflight.hub_token(with_token) == "hf_alice" and "hf_alice" not in repr(preflight.hub_token(with_token))
    assert {token for _, _, token in hub.requests} == {"hf_alice"}


def test_a_token_without_access_is_an_error_and_a_silent_hub_is_not(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "org/gated-model", FILES, gated=True, readers={"alice"})
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(Exception, match="has no access to org/gated-model") as caught:
        preflight.hub_token(config("org/gated-model"))
    assert "hf_bob" not in str(caught.value) and not isinstance(caught.value, HubUnavailableError)
    hub.fail("auth-check", 503)
    monkeypatch.setattr("rayllm_batch.model.hub_client.SERVER_ERROR_RETRIES", 0)
    assert preflight.hub_token(config("org/gated-model")) == ""
