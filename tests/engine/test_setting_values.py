"""Values of vLLM's engine settings, against types as vLLM's source writes them."""

from __future__ import annotations

import ast
import datetime
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.engine import engine_args, setting_values
from rayllm_batch.errors import ConfigError

LISTS = {"Runner": "Literal['generate', 'pooling']", "Option": "Literal['auto', Runner]", "Ranks": "Literal[8, 16]"}


@pytest.fixture(autouse=True)
def lists(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {name: ast.parse(text, mode="eval").body for name, text in LISTS.items()}
    monkeypatch.setattr(setting_values, "_lists", lambda: read)
    monkeypatch.setattr(setting_values, "entry_points", lambda group: [])


@pytest.mark.parametrize(
    "annotation, value",
    [
        ("bool", True),
        ("bool | None", 0),
        ("int", -7),
        ("float", 3),
        ("str | None", None),
        ("list[int | str] | None", [1, "a"]),
        ("set[str]", ["a"]),
        ("dict[str, Any]", {"a": 1}),
        ("CompilationConfig", {"mode": 3}),
        ("Option", "pooling"),
        ("Ranks", 16),
        ("Literal['warn', 'error'] | None", "warn"),
        ("str | Option", "package.module.Class"),
        ("str | Option | type[Executor] | None", dict),
        ("'dict[str, Any] | Other'", 5),
        ("SomethingNew | None", "anything"),
        ("Option", type("Dtype", (), {"__module__": "torch"})()),
    ],
)
def test_what_fits_or_is_not_known(annotation: str, value: Any) -> None:
    setting_values.check("name", value, annotation, "the config")


@pytest.mark.parametrize(
    "annotation, value, words",
    [
        ("bool", "false", "must be true or false, given 'false' (text)"),
        ("bool | None", 2, "true or false"),
        ("int", True, "a whole number"),
        ("int", 7.0, "a whole number"),
        ("float", "4", "a number"),
        ("str | None", 1234567, "text"),
        ("str | None", datetime.date(2024, 3, 1), "text"),
        ("str | list[str] | None", 1.5, "text or a list"),
        ("list[int] | None", "1,2", "a list"),
        ("dict[str, Any] | None", '{"a": 1}', "a mapping"),
        ("KVTransferConfig | None", "a", "a mapping"),
        ("Option", "generation", "one of auto, generate, pooling, given 'generation' (text). Did you mean 'generate'?"),
        ("Ranks", 7, "one of 8, 16"),
        ("Ranks", True, "one of 8, 16"),
        ("str | Option | type[Executor] | None", "Auto", "one of auto"),
        ("Literal['warn', 'error'] | None", "warning", "one of warn, error"),
    ],
)
def test_what_cannot_be(annotation: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="'name' under engine_kwargs in the config must be ") as refused:
        setting_values.check("name", value, annotation, "the config")
    assert words in str(refused.value)


def test_a_plugin_may_add_words_and_some_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    setting_values.check("quantization", "Pooling", "Option | str | None", "the config")
    plugin = type("Plugin", (), {"value": "my_plugin:register"})
    monkeypatch.setattr(setting_values, "entry_points", lambda group: [plugin])
    setting_values.check("quantization", "my_bits", "Option | str | None", "the config")


@pytest.mark.skipif(not engine_args.installed_types(), reason="vLLM is not installed")
class TestOfTheInstalledVLLM:
    @pytest.fixture(autouse=True)
    def lists(self) -> None:
        """Its own."""

    @pytest.mark.parametrize(
        "name, value",
        [
            ("dtype", "bf16"),
            ("kv_cache_dtype", "fp9"),
            ("quantization", "fp-8"),
            ("load_format", "safetensor"),
            ("distributed_executor_backend", "Ray"),
            ("attention_backend", "FLASH"),
            ("enforce_eager", "no"),
            ("max_model_len", "32 k"),
            ("revision", 20240301),
        ],
    )
    def test_a_config_with_it_is_refused(self, name: str, value: Any) -> None:
        given = {"model_id": "a/b", "llm_engine": "vllm", "accelerator_type": "H100", "engine_kwargs": {name: value}}
        with pytest.raises(ConfigError, match=f"'{name}'"):
            init_engine_from_config(given)

    def test_words_in_any_case(self) -> None:
        kwargs = {"attention_backend": "flash_attn", "quantization": "FP8", "load_format": "Dummy"}
        given = {"model_id": "a/b", "llm_engine": "vllm", "accelerator_type": "H100"}
        assert init_engine_from_config({**given, "engine_kwargs": kwargs}).engine_kwargs == kwargs
        init_engine_from_config({**given, "engine_kwargs": {"attention_backend": "auto"}})

    def test_its_words_are_found(self) -> None:
        known = setting_values._lists()
        named = {word for kind in engine_args.installed_types().values() for word in kind.split(" | ")}
        assert {"ModelDType", "CacheDType", "QuantizationMethods", "LoadFormats", "RunnerOption"} <= named & set(known)
