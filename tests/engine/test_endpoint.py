"""Where an endpoint is, its key, and that neither key nor password is ever shown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.endpoint import Endpoint, api_key, of, secrets
from rayllm_batch.errors import ConfigError
from rayllm_batch.output.fingerprint import describe_job
from rayllm_batch.report.page import shown
from rayllm_batch.workload import ChatWorkloadBase

KEY = "sk-test-0123456789abcdef"
URL = "https://host.example:8443/v1"


def load(**engine_kwargs: Any) -> EngineConfig:
    given: dict[str, Any] = {"model_id": "tiny", "llm_engine": "openai", "engine_kwargs": {"base_url": URL}}
    given["engine_kwargs"] |= engine_kwargs
    return init_engine_from_config(given)


def refusal(**engine_kwargs: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        load(**engine_kwargs)
    return str(raised.value)


def test_addresses() -> None:
    where = Endpoint("https://me:se%20cret@host.example/openai/v1/?api-version=2026-01-01&key=abcdef")
    assert where.url("/models") == "https://host.example/openai/v1/models?api-version=2026-01-01&key=abcdef"
    assert (where.user, str(where.password)) == ("me", "se cret") and where.headers == {}
    assert where.shown == "https://host.example/openai/v1" and repr(where) == f"Endpoint({where.shown})"
    said = where.redacted("no: se cret, se%20cret and key=abcdef\n at 2026-01-01")
    assert said == "no: ***, *** and key=*** at ***"
    assert Endpoint("http://[::1]:8000/v1").url("/models") == "http://[::1]:8000/v1/models"


def test_keys_are_not_said() -> None:
    where = Endpoint(URL, KEY)
    assert where.headers == {"Authorization": f"Bearer {KEY}"}
    for text in (
        f"Incorrect API key provided: {KEY}.",
        "Incorrect: sk-proj-ab****wxyz",
        "Bearer abcdef123",
        "gsk_abcdefgh",
    ):
        assert "***" in where.redacted(text) and KEY not in where.redacted(text)
        assert "abcd" not in where.redacted(text) and "wxyz" not in where.redacted(text)
    assert where.redacted("the risk-free task-based answer") == "the risk-free task-based answer"
    assert len(where.redacted("x " * 1000)) < 410
    said = "ClientHttpProxyError: 407, url='http://me:pro@word@10.0.0.1:3128' \x1b[31mred\x1b[0m\x07"
    assert where.redacted(said) == "ClientHttpProxyError: 407, url='http://***@10.0.0.1:3128' [31mred [0m"
    in_its_path = Endpoint(f"https://sk-gateway.example/{KEY}/v1/")
    assert in_its_path.shown == "https://sk-gateway.example/***/v1" and KEY not in repr(vars(in_its_path))
    assert in_its_path.url("/models") == f"https://sk-gateway.example/{KEY}/v1/models"
    assert KEY not in repr(load(base_url=f"https://sk-gateway.example/{KEY}/v1"))


def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert Endpoint(URL).proxy is None
    monkeypatch.setenv("https_proxy", "me:password@10.0.0.1:3128")
    assert Endpoint(URL).proxy == "http://me:password@10.0.0.1:3128", "without a scheme, as curl takes it"
    assert Endpoint("https://localhost/v1").proxy is None


def test_where_the_key_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert api_key({}, {}) == "", "a local server takes none"
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert api_key({}, {}) == KEY and api_key({}, {"OPENAI_API_KEY": "sk-config"}) == "sk-config"
    assert KEY not in repr(api_key({}, {}))
    with pytest.raises(ConfigError, match="api_key_env is OTHER, but there is no such environment variable"):
        api_key({"api_key_env": "OTHER"}, {})
    monkeypatch.setenv("OTHER", "sk two words")
    with pytest.raises(ConfigError, match="OTHER holds what is no API key") as raised:
        api_key({"api_key_env": "OTHER"}, {})
    assert "two words" not in str(raised.value)
    assert api_key({"api_key_env": "my_key"}, {"MY_KEY": "sk-mine"}) == "sk-mine", "a config's names are in upper case"


GATEWAY = "0123-gateway-secret"


def test_further_headers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY", f"{GATEWAY}\n")
    kwargs = {"base_url": URL, "default_headers_env": {"x-api-key": "GATEWAY"}}
    where = of(kwargs, {})
    assert where.headers == {"Authorization": f"Bearer {KEY}", "x-api-key": GATEWAY}
    assert GATEWAY not in repr(where) + repr(vars(where)) + where.redacted(f"no: {GATEWAY}")
    assert secrets(kwargs, {}) == {"OPENAI_API_KEY": KEY, "GATEWAY": GATEWAY} and GATEWAY not in repr(
        secrets(kwargs, {})
    )
    assert of(kwargs, {"GATEWAY": "of-the-config"}).headers["x-api-key"] == "of-the-config"
    own = of({**kwargs, "default_headers_env": {"authorization": "GATEWAY"}}, {})
    assert own.headers == {"authorization": GATEWAY}, "in place of the key"
    monkeypatch.setenv("GATEWAY", "two\nlines")
    with pytest.raises(ConfigError, match="GATEWAY holds what is no header") as raised:
        of(kwargs, {})
    assert "two" not in str(raised.value)
    monkeypatch.delenv("GATEWAY")
    with pytest.raises(ConfigError, match="names GATEWAY for the header x-api-key, but there is no such environment"):
        of(kwargs, {})


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ("x-api-key: hunter22", "must be a mapping of names to values, given text"),
        (["hunter22"], "must be a mapping of names to values, given a list"),
        ({"x-api-key": "hunter-22"}, "x-api-key in default_headers_env in the config dict must be the name of an env"),
        ({"x-api-key": 22}, "must be the name of an environment variable"),
        ({"x-api-key": None}, "must be the name of an environment variable"),
        ({"x api": "A"}, "has 'x api', which is no name of a header"),
        ({"x-a\r\nHost": "A"}, "which is no name of a header"),
        ({7: "A", "x": "B", "X": "B"}, "has 'x', which comes twice"),
        ({"Host": "A"}, "has 'host', which is not to be set"),
        ({"Authorization": "A"}, "and there is api_key_env"),
    ],
)
def test_headers_that_cannot_be(headers: Any, words: str) -> None:
    said = refusal(default_headers_env=headers, api_key_env="MY_KEY")
    assert words in said and "hunter" not in said


def test_a_key_in_place_of_its_variable_is_not_shown() -> None:
    assert KEY not in refusal(api_key_env=KEY)


def test_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(max_concurrency=8, timeout_s=60, requests_per_minute=None)
    assert config.accelerator_type == "CPU" and config.gpus_per_replica == 0
    assert config.engine_kwargs == {"base_url": URL, "max_concurrency": 8, "timeout_s": 60}


def test_an_address_with_a_secret_is_shown_nowhere() -> None:
    config = load(base_url="https://me:hunter22@host.example/v1")
    assert config.engine_kwargs["base_url"] == "https://me:hunter22@host.example/v1"
    assert "hunter22" not in repr(config) and "hunter22" not in shown("base_url", config.engine_kwargs["base_url"])
    assert "hunter22" not in refusal(base_url="ftp://me:hunter22@host.example/v1")
    assert "hunter22" not in refusal(base_url="https://me:hunter22@host.example:x/v1")
    assert "hunter22" not in str(describe_job(config, ChatWorkloadBase(), None))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base_url": None}, "'base_url' in engine_kwargs of the config dict must be an address"),
        ({"base_url": "localhost:8000"}, "must be an address such as http://localhost:8000/v1"),
        ({"base_url": f"{URL}/chat/completions"}, "leave /chat/completions away"),
        ({"max_num_seqs": 8}, "Unknown key 'max_num_seqs'"),
        ({"max_concurency": 8}, "Did you mean 'max_concurrency'"),
        ({"max_concurrency": 0}, "a whole number of at least 1"),
        ({"timeout_s": float("inf")}, "seconds above 0"),
        ({"model": "tiny"}, "set model_id at the top level"),
        ({"extra_body": {"messages": []}}, "extra_body in the config dict has 'messages'"),
        ({"extra_body": {"x": {1, 2}}}, "must be what JSON has"),
        ({"max_cost_usd": 5}, "needs the prices"),
        ({"max_cost_usd": 5, "million_input_tokens_usd": 1}, "needs the prices"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], words: str) -> None:
    assert words in refusal(**given)


@pytest.mark.parametrize(
    "idle", [{"chat_template": "{{ x }}"}, {"engines_per_gpu": 2}, {"lora_config": {"dynamic_lora_loading_path": "/x"}}]
)
def test_what_the_server_decides(idle: dict[str, Any]) -> None:
    given = {"model_id": "tiny", "llm_engine": "openai", "engine_kwargs": {"base_url": URL}, **idle}
    with pytest.raises(ConfigError, match=f"{next(iter(idle))} in the config dict has no effect on llm_engine openai"):
        init_engine_from_config(given)


def test_what_decides_answers() -> None:
    def settings(config: EngineConfig) -> dict[str, str]:
        return describe_job(config, ChatWorkloadBase(), None).settings

    same = load(base_url="http://elsewhere/v1", max_concurrency=3, max_retries=9, max_total_tokens=7)
    same = dataclasses.replace(
        same, engine_kwargs={**same.engine_kwargs, "api_key_env": "X", "default_headers_env": {"a": "B"}}
    )
    assert settings(load()) == settings(same)
    assert settings(load()) != settings(load(extra_body={"reasoning_effort": "low"}))


def test_a_models_name_is_no_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load().model_id == "tiny" and describe_job(load(), ChatWorkloadBase(), None).settings["model_id"] == "tiny"
