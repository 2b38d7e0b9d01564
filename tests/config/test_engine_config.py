"""Engine configurations: what loads, what is merged, what is refused and with which words, and what never shows."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import pprint
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.config import EngineConfig, EnvVars
from rayllm_batch.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
TOKEN = "hf_thisMustNeverShow"
BASE: dict[str, Any] = {"model_id": "org/model", "llm_engine": "vllm", "accelerator_type": "A10G"}


def load(config: Any = None, /, **keys: Any) -> EngineConfig:
    return init_engine_from_config({**BASE, **keys} if config is None else config)


def refusal(config: Any = None, /, override: Any = None, **keys: Any) -> str:
    """The text of the ConfigError, after checking that no environment value is in it or in its traceback."""
    with pytest.raises(ConfigError) as caught:
        init_engine_from_config({**BASE, **keys} if config is None else config, override)
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path: Path):
    def write(text: str | bytes, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


MINIMAL = "model_id: org/model\nllm_engine: vllm\naccelerator_type: A10G\n"


# --- the shipped ones


def test_configs_are_shipped() -> None:
    names = {path.name for path in SHIPPED}
    assert {"demo-cpu.yaml", "llama-3.1-8b-a10g.yaml", "llama-3.1-8b-l4.yaml", "llama-3.1-8b-a100.yaml"} <= names


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config_loads_without_a_warning(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if path.name == "demo-cpu.yaml" and not (ROOT / "assets" / "demo-model").is_dir():
            pytest.skip("the demo model is not built")
        config = init_engine_from_config(path)
    assert config.llm_engine == ("openai" if path.name == "openai-endpoint.yaml" else "vllm")
    assert config.gpus_per_replica == (
        0 if config.accelerator_type == "CPU" else 4 if "-4x" in path.name else 0.5 if "-1b-" in path.name else 1
    )
    assert config.hf_token is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_setting_of_a_shipped_config_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    for line in lines[lines.index("engine_kwargs:") + 1 :]:
        if line.startswith("  ") and ":" in line.split("#")[0] and not line.rstrip().endswith(":"):
            assert "#" in line, f"{path.name}: {line.strip()} does not say what it trades"


def test_path_string_and_path_object_are_the_same(yaml_file: Any) -> None:
    path = yaml_file(MINIMAL)
    assert init_engine_from_config(path) == init_engine_from_config(str(path)) == load()


def test_a_checked_config_passes_through() -> None:
    config = load()
    assert init_engine_from_config(config) is config
    assert "EngineConfig" in refusal(config, override={"engine_kwargs": {"max_num_seqs": 1}})


# --- merging


OVERRIDE = {
    "engine_kwargs": {"max_num_seqs": 8, "compilation_config": {"level": 3, "sizes": [1, 2]}},
    "runtime_env": {"env_vars": {"HF_TOKEN": TOKEN}},
}
WITH_MORE = {
    **BASE,
    "engine_kwargs": {"max_model_len": 4096, "compilation_config": {"level": 0, "cache_dir": "/tmp/x"}},
    "runtime_env": {"env_vars": {"A": "1"}},
}
WITH_MORE_YAML = """
model_id: org/model
llm_engine: vllm
accelerator_type: A10G
engine_kwargs:
  max_model_len: 4096
  compilation_config: {level: 0, cache_dir: /tmp/x}
runtime_env:
  env_vars: {A: 1}
"""


@pytest.mark.parametrize("kind", ["dict", "path"])
def test_override_merges_deeply(kind: str, yaml_file: Any) -> None:
    config = init_engine_from_config(WITH_MORE if kind == "dict" else yaml_file(WITH_MORE_YAML), override=OVERRIDE)
    assert config.engine_kwargs == {
        "max_model_len": 4096,
        "max_num_seqs": 8,
        "compilation_config": {"level": 3, "cache_dir": "/tmp/x", "sizes": [1, 2]},
    }
    assert config.env_vars == {"A": "1", "HF_TOKEN": TOKEN}
    assert config.hf_token == TOKEN


def test_neither_dict_is_changed_nor_shared() -> None:
    # Legacy keys too: their translation works in place.
    base = copy.deepcopy(WITH_MORE)
    base["engine_kwargs"].update(use_v2_block_manager=True, hf_token=TOKEN, rope_theta=1.0)
    base["runtime_env"]["env_vars"]["vllm_attention_backend"] = "FLASHINFER"
    override = copy.deepcopy(OVERRIDE)
    override["engine_kwargs"]["preemption_mode"] = "swap"
    before = copy.deepcopy((base, override))
    with pytest.warns(UserWarning):
        config = init_engine_from_config(base, override=override)
    assert (base, override) == before
    config.engine_kwargs["compilation_config"]["sizes"].append(3)
    config.engine_kwargs["max_model_len"] = 1
    config.env_vars["A"] = "2"
    assert (base, override) == before


def test_override_replaces_what_is_not_a_dict_and_adds_what_is_missing(yaml_file: Any) -> None:
    path = yaml_file(MINIMAL + "engine_kwargs:\n")  # a heading without anything under it
    config = init_engine_from_config(path, override={"accelerator_type": "L4", "engine_kwargs": {"max_num_seqs": 2}})
    assert config.accelerator_type == "L4" and config.engine_kwargs == {"max_num_seqs": 2}


def test_override_of_an_environment_variable_wins_in_either_case() -> None:
    for base, over in (("HF_TOKEN", "hf_token"), ("hf_token", "HF_TOKEN")):
        raw = {**BASE, "runtime_env": {"env_vars": {base: "old"}}}
        with pytest.warns(UserWarning, match="hf_token"):
            config = init_engine_from_config(raw, override={"runtime_env": {"env_vars": {over: TOKEN}}})
        assert config.env_vars == {"HF_TOKEN": TOKEN}


def test_override_none_takes_an_environment_variable_out() -> None:
    raw = {**BASE, "runtime_env": {"env_vars": {"HF_TOKEN": "old", "A": "1"}}}
    config = init_engine_from_config(raw, override={"runtime_env": {"env_vars": {"HF_TOKEN": None}}})
    assert config.env_vars == {"A": "1"} and config.hf_token is None


@pytest.mark.parametrize("override", [[("engine_kwargs", {})], "max_num_seqs=1"])
def test_override_of_another_kind(override: Any) -> None:
    assert "override must be a dict" in refusal(override=override)


# --- refused: files


def test_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    for name in ("llama-a10g.yaml", "llama-l4.yml", "notes.txt"):
        (tmp_path / name).write_text(MINIMAL)
    text = refusal(tmp_path / "llama-a10.yaml")
    assert "does not exist" in text and "llama-a10.yaml" in text
    assert "llama-a10g.yaml, llama-l4.yml" in text and "notes.txt" not in text
    assert "Did you mean 'llama-a10g.yaml'?" in text


def test_missing_file_where_nothing_is(tmp_path: Path) -> None:
    assert "no YAML file" in refusal(tmp_path / "absent" / "config.yaml")
    assert str(Path.cwd()) in refusal("absent.yaml"), "a relative path: looked from where?"


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_empty_yaml(text: str, yaml_file: Any) -> None:
    message = refusal(yaml_file(text))
    assert "is empty" in message and "model_id, llm_engine, accelerator_type" in message


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "a list"), ("model_id\n", "text"), ("42\n", "a number")])
def test_yaml_that_is_no_mapping(text: str, kind: str, yaml_file: Any) -> None:
    message = refusal(yaml_file(text))
    assert "must hold a mapping" in message and kind in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MINIMAL + f"runtime_env:\n  env_vars:\n    HF_TOKEN: {TOKEN}: x\n", "line 6"),
        (MINIMAL + f"runtime_env:\n  env_vars:\n    HF_TOKEN: '{TOKEN}\n", "line 7"),
        (MINIMAL + f"runtime_env: {{env_vars: {{HF_TOKEN: {TOKEN}}}\nx: [1\n", "line 5"),
        (f"HF_TOKEN: {TOKEN}\n\tmodel_id: x\n", "line 2"),
    ],
)
def test_invalid_yaml_names_the_place_and_not_what_stands_there(text: str, line: str, yaml_file: Any) -> None:
    message = refusal(yaml_file(text))
    assert "not valid YAML" in message and line in message and "config.yaml" in message


def test_yaml_in_another_encoding(yaml_file: Any) -> None:
    message = refusal(yaml_file(MINIMAL.encode() + f"# caf\u00e9 {TOKEN}\n".encode("latin-1")))
    assert "not UTF-8" in message and "config.yaml" in message


@pytest.mark.parametrize(("config", "kind"), [(["a"], "a list"), (7, "a number"), (object(), "a object")])
def test_config_of_another_kind(config: Any, kind: str) -> None:
    message = refusal(config)
    assert "path of a YAML file or a dict" in message and kind in message


# --- refused: keys and values


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model", "model_id"),
        ("acelerator_type", "accelerator_type"),
        ("engine_kwarg", "engine_kwargs"),
        ("runtime_envs", "runtime_env"),
    ],
)
def test_misspelt_top_level_key(key: str, nearest: str) -> None:
    message = refusal(**{key: "x"})
    assert f"Unknown key {key!r}" in message and f"Did you mean {nearest!r}?" in message and "Known keys" in message


@pytest.mark.parametrize("key", ["max_num_seqs", "gpu_memory_utilization", "kv_transfer_config", "dtype"])
def test_engine_setting_at_the_top_level(key: str) -> None:
    message = refusal(**{key: 1})
    assert repr(key) in message and "put it under engine_kwargs" in message and "Did you mean" not in message


def test_key_that_resembles_nothing() -> None:
    message = refusal(zzz=1)
    assert "'zzz'" in message and "Did you mean" not in message and "model_id" in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("max_model_length", "max_model_len"),
        ("tensor_parallel", "tensor_parallel_size"),
        ("gpu_memory_utilisation", "gpu_memory_utilization"),
    ],
)
def test_misspelt_engine_setting(key: str, nearest: str) -> None:
    message = refusal(engine_kwargs={key: 1})
    assert repr(key) in message and f"Did you mean {nearest!r}?" in message and "under engine_kwargs" in message


def test_model_under_engine_kwargs() -> None:
    assert "model_id" in refusal(engine_kwargs={"model": "org/other"})


@pytest.mark.parametrize("key", ["model_id", "llm_engine", "accelerator_type"])
@pytest.mark.parametrize(("value", "shown"), [(None, "missing"), ("  ", "'  '"), (3, "given 3")])
def test_required_key(key: str, value: Any, shown: str) -> None:
    message = refusal({name: v for name, v in {**BASE, key: value}.items() if v is not None})
    assert repr(key) in message and shown in message and "For example" in message


def test_unknown_engine() -> None:
    message = refusal(llm_engine="vlm")
    assert "'vlm'" in message and "vllm, openai, echo" in message and "Did you mean 'vllm'?" in message
    assert load(llm_engine=" VLLM ").llm_engine == "vllm"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"engine_kwargs": ["max_num_seqs"]}, ["engine_kwargs", "mapping", "a list"]),
        ({"engine_kwargs": {1: 2}}, ["Unknown engine setting 1", "engine_kwargs"]),
        ({"engine_kwargs": "max_num_seqs: 1"}, ["engine_kwargs", "mapping", "text"]),
        ({"runtime_env": TOKEN}, ["runtime_env", "mapping", "text"]),
        ({"runtime_env": {"env_vars": [f"HF_TOKEN={TOKEN}"]}}, ["env_vars", "mapping", "a list"]),
        ({"runtime_env": {"env_vars": {"HF_TOKEN": [TOKEN]}}}, ["HF_TOKEN", "text or a number", "a list"]),
        ({"runtime_env": {"env_vars": {"HF_TOKEN": {"value": TOKEN}}}}, ["HF_TOKEN", "text or a number", "a dict"]),
        ({"runtime_env": {"env_var": {"HF_TOKEN": TOKEN}}}, ["'env_var'", "runtime_env", "Did you mean 'env_vars'?"]),
        ({"lora_config": {"dynamic_lora_path": "/x"}}, ["lora_config", "dynamic_lora_loading_path"]),
        (
            {"lora_config": {"dynamic_lora_loading_path": ["/x"]}},
            ["dynamic_lora_loading_path", "a folder or a URI", "a list"],
        ),
        ({"lora_config": "s3://x"}, ["lora_config", "mapping", "text"]),
        ({"chat_template": ["x"]}, ["chat_template", "a list"]),
        ({"chat_template": "absent.jinja"}, ["chat_template", "'absent.jinja'", "does not exist"]),
        ({"chat_template_kwargs": True}, ["chat_template_kwargs", "mapping", "true/false"]),
    ],
)
def test_value_of_another_kind(keys: dict[str, Any], words: list[str]) -> None:
    message = refusal(**keys)
    for word in words:
        assert word in message


def test_all_that_is_of_another_kind_is_said_at_once() -> None:
    message = refusal({"model": "org/model", "llm_engine": "vllm", "accelerator_type": 5, "engine_kwargs": [TOKEN]})
    assert all(name in message for name in ("'model_id'", "given 5", "'engine_kwargs'", "Unknown key 'model'"))
    assert len(message.splitlines()) == 4 and "pydantic" not in message


def test_the_message_names_the_file(yaml_file: Any) -> None:
    path = yaml_file(MINIMAL + "engine_kwargs: {max_model_length: 1}\n")
    assert str(path) in refusal(path)


# --- what comes out


def test_environment_is_text_with_names_in_upper_case() -> None:
    with pytest.warns(UserWarning):
        config = load(
            runtime_env={
                "env_vars": {
                    "vllm_logging_level": "ERROR",
                    "VLLM_CPU_KVCACHE_SPACE": 4,
                    "SHARE": 0.5,
                    "ON": True,
                    "OFF": False,
                    "UNSET": None,
                }
            }
        )
    assert dict(config.env_vars) == {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "SHARE": "0.5",
        "ON": "1",
        "OFF": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    assert all(isinstance(value, str) for value in config.env_vars.values())


def test_accelerator_is_upper_cased() -> None:
    assert load(accelerator_type=" cpu ").accelerator_type == "CPU"


@pytest.mark.parametrize(
    ("keys", "gpus"),
    [
        ({}, 1),
        ({"engine_kwargs": {"tensor_parallel_size": 4}}, 4),
        ({"engine_kwargs": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}}, 8),
        ({"engine_kwargs": {"tensor_parallel_size": None, "pipeline_parallel_size": 2}}, 2),
        ({"engine_kwargs": {"tensor_parallel_size": 2}, "accelerator_type": "CPU"}, 0),
        ({"engine_kwargs": {"tensor_parallel_size": 2}, "llm_engine": "echo"}, 0),
        ({"engines_per_gpu": None}, 1),
        ({"engines_per_gpu": 2}, 0.5),
        ({"engines_per_gpu": 3}, 0.3333),  # three of these are no more than one
        ({"engines_per_gpu": 2, "accelerator_type": "CPU"}, 0),
    ],
)
def test_gpus_per_replica(keys: dict[str, Any], gpus: float) -> None:
    assert load(**keys).gpus_per_replica == gpus


def test_batch_invariance_by_its_key_or_by_vllms_own_name() -> None:
    h100 = {"accelerator_type": "H100"}
    assert load(**h100).batch_invariant is False
    assert load(**h100, batch_invariant=True).batch_invariant is True
    for value, on in (("1", True), (1, True), ("0", False), (False, False)):
        runtime_env = {"env_vars": {"VLLM_BATCH_INVARIANT": value}}
        assert load(**h100, runtime_env=runtime_env).batch_invariant is on, value
    for kind in ("CPU", "a10g", "L4"):
        with pytest.raises(ConfigError, match="compute capability 9.0"):
            load(accelerator_type=kind, batch_invariant=True)
    with pytest.raises(ConfigError, match="'batch_invariant' .* must be true or false"):
        load(**h100, batch_invariant="yes")


def test_engines_on_one_gpu_share_its_memory_unless_told_how() -> None:
    assert load(engines_per_gpu=1).memory_share is None
    assert load(engines_per_gpu=2).memory_share == 0.45
    assert load(engines_per_gpu=2).engine_kwargs == load().engine_kwargs  # what the user has set, and no more
    assert load(engines_per_gpu=2, engine_kwargs={"gpu_memory_utilization": 0.3}).memory_share == 0.3


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"engines_per_gpu": 0}, ("engines_per_gpu", "at least 1", "0")),
        ({"engines_per_gpu": 0.5}, ("engines_per_gpu", "at least 1", "0.5")),
        ({"engines_per_gpu": True}, ("engines_per_gpu", "True")),
        (
            {"engines_per_gpu": 2, "engine_kwargs": {"tensor_parallel_size": 2}},
            ("engines_per_gpu=2", "tensor_parallel_size=2", "one or the other"),
        ),
        (
            {"engines_per_gpu": 2, "engine_kwargs": {"gpu_memory_utilization": 0.9}},
            ("gpu_memory_utilization=0.9", "0.45"),
        ),
    ],
)
def test_engines_that_cannot_share_a_gpu(keys: dict[str, Any], words: tuple[str, ...]) -> None:
    message = refusal(**keys)
    for word in words:
        assert word in message


def test_a_relative_model_folder_starts_from_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "tiny.yaml"
    path.write_text(MINIMAL.replace("org/model", "../models/tiny"))
    monkeypatch.chdir("/")
    assert init_engine_from_config(path).model_id == str(tmp_path / "models" / "tiny")
    path.write_text(MINIMAL.replace("org/model", "../models/absent"))
    message = refusal(path)
    assert "'../models/absent'" in message and str(tmp_path / "models" / "absent") in message


def test_a_relative_model_folder_of_a_dict_starts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load(model_id="./tiny").model_id == str(tmp_path / "tiny")
    assert load(model_id="tiny").model_id == str(tmp_path / "tiny"), "a folder that is there is one, however written"
    assert load(model_id="org/model").model_id == "org/model"


def test_lora_is_enabled_by_its_path(tmp_path: Path) -> None:
    assert "enable_lora" not in load().engine_kwargs and load().dynamic_lora_loading_path is None
    config = load(lora_config={"dynamic_lora_loading_path": "s3://bucket/loras"})
    assert config.dynamic_lora_loading_path == "s3://bucket/loras" and config.engine_kwargs == {"enable_lora": True}
    off = load(lora_config={"dynamic_lora_loading_path": "s3://b/l"}, engine_kwargs={"enable_lora": False})
    assert off.engine_kwargs == {"enable_lora": False}


def test_a_lora_folder_is_absolute(tmp_path: Path, yaml_file: Any) -> None:
    path = yaml_file(MINIMAL + "lora_config: {dynamic_lora_loading_path: loras}\n")
    assert init_engine_from_config(path).dynamic_lora_loading_path == str(tmp_path / "loras")


def test_a_chat_template_in_another_encoding(yaml_file: Any) -> None:
    yaml_file(b"caf\xe9", "chat.jinja")
    assert "chat.jinja' is not UTF-8" in refusal(yaml_file(MINIMAL + "chat_template: chat.jinja\n"))


def test_chat_template_from_a_file_beside_the_yaml_and_as_text(yaml_file: Any) -> None:
    yaml_file("{{ messages }}\n", "chat.jinja")
    path = yaml_file(MINIMAL + "chat_template: chat.jinja\nchat_template_kwargs: {enable_thinking: false}\n")
    config = init_engine_from_config(path)
    assert config.chat_template == "{{ messages }}\n" and config.chat_template_kwargs == {"enable_thinking": False}
    assert load(chat_template="{{ x }}").chat_template == "{{ x }}"
    assert load().chat_template is None


# --- secrets


def with_token() -> EngineConfig:
    return load(runtime_env={"env_vars": {"HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": TOKEN}})


def test_a_printed_config_hides_its_environment() -> None:
    from IPython.lib.pretty import pretty

    config = with_token()
    for value in (
        config,
        config.env_vars,
        {**config.env_vars},
        dict(config.env_vars),
        dataclasses.asdict(config),
        [config.hf_token],
    ):
        for shown in (repr(value), str(value), f"{value}", f"{value!r}", pprint.pformat(value), pretty(value)):
            assert TOKEN not in shown
    assert "HF_TOKEN" in repr(config), "that one is set can be seen"


def test_rich_and_failed_assertions_hide_it() -> None:
    rich = pytest.importorskip("rich.pretty")
    assert TOKEN not in rich.pretty_repr(with_token())
    with pytest.raises(AssertionError) as caught:
        assert with_token() == load()
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config)), dataclasses.replace]
)
def test_copies_keep_and_hide_it(copied: Any) -> None:
    config = copied(with_token())
    assert config == with_token() and config.hf_token == TOKEN
    assert isinstance(config.env_vars, EnvVars) and TOKEN not in repr(config)


def test_hf_token_of_the_engine_moves_to_the_environment() -> None:
    config = load(engine_kwargs={"hf_token": TOKEN, "max_num_seqs": 4})
    assert config.engine_kwargs == {"max_num_seqs": 4} and config.hf_token == TOKEN
    assert TOKEN not in repr(config)
    both = load(engine_kwargs={"hf_token": "other"}, runtime_env={"env_vars": {"HF_TOKEN": TOKEN}})
    assert both.hf_token == TOKEN, "the environment's counts"


@pytest.mark.parametrize("value", [True, False, None, ""])
def test_hf_token_of_the_engine_that_is_no_token(value: Any) -> None:
    config = load(engine_kwargs={"hf_token": value})  # vLLM's `true`: the stored token, which is looked up anyway
    assert config.env_vars == {} and config.hf_token is None and config.engine_kwargs == {}


def test_no_refusal_shows_the_environment() -> None:
    secret = {"env_vars": {"HF_TOKEN": TOKEN, "VLLM_CPU_KVCACHE_SPACE": 1}}
    for keys in (
        {"engine_kwargs": {"max_model_length": 1}},
        {"modelid": "x"},
        {"llm_engine": "x"},
        {"model_id": "./absent"},
        {"engine_kwargs": {"max_num_seqs": 0}},
        {"lora_config": {"x": 1}},
        {"runtime_env": {**secret, "pip": ["x"]}},
    ):
        assert refusal(**{"runtime_env": secret, **keys})


def test_the_legacy_warning_does_not_show_the_environment() -> None:
    with pytest.warns(UserWarning, match="hf_token") as caught:
        config = load(runtime_env={"env_vars": {"hf_token": TOKEN}})
    assert config.hf_token == TOKEN and not any(TOKEN in str(warning.message) for warning in caught)


def test_settings_that_hold_themselves_or_are_deep(tmp_path: Path) -> None:
    ring: dict = {}
    ring["again"] = ring
    deep: dict = {}
    for _ in range(3000):
        deep = {"a": deep}
    section: dict = {}
    section["engine_kwargs"] = section
    base = {"model_id": "org/model", "llm_engine": "echo", "accelerator_type": "CPU"}
    for inner in (ring, deep, section):
        for config, override in (
            ({**base, "engine_kwargs": inner}, None),
            (base, {"engine_kwargs": {"hf_overrides": [inner]}}),
            (base, inner),
        ):
            with pytest.raises(ConfigError, match="more than 100 levels, or one that holds itself"):
                init_engine_from_config(config, override=override)
    file = tmp_path / "config.yaml"
    its_own_section = "runtime_env: &a\n  runtime_env: *a\n"  # on the way to what may be a secret
    for text in ("engine_kwargs: &a\n  b: *a\n", its_own_section, "a: " + "[" * 5000 + "]" * 5000):
        file.write_text(text)
        with pytest.raises(ConfigError, match="levels"):
            init_engine_from_config(file)


@pytest.mark.parametrize("value", ["!!int x", "!!timestamp yesterday", "9" * 5000])
def test_a_value_that_yaml_takes_for_a_date_or_a_number_that_it_is_not(tmp_path: Path, value: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model_id: {value}\n")
    with pytest.raises(ConfigError, match="config.yaml' is not valid YAML"):
        init_engine_from_config(path)


@pytest.mark.parametrize(
    ("given", "name"),
    [("hf://org/m", "org/m"), ("hf://models/org/m/", "org/m"), ("hf://gpt2", "gpt2"), ("org/m", "org/m")],
)
def test_a_model_may_be_named_as_data_are(given, name):
    config = {"model_id": given, "llm_engine": "vllm", "accelerator_type": "CPU"}
    assert init_engine_from_config(config).model_id == name


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("https://huggingface.co/org/m/tree/main", "org/m"),
        ("https://me:secret@hf.co/org/m", "org/m"),
        ("http://host", "org/model"),
        ("file:///models/m", "/models/m"),
    ],
)
def test_an_address_is_no_model(given, named):
    with pytest.raises(ConfigError, match=f"which no engine reads.*, here {named}.$") as refused:
        init_engine_from_config({"model_id": given, "llm_engine": "vllm", "accelerator_type": "CPU"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("given", ["hf://datasets/org/m", "hf://org/m@main", "hf://org/m/file.gguf", "hf://"])
def test_what_names_no_model(given):
    with pytest.raises(ConfigError, match="names no model: write hf://org/model.*revision"):
        init_engine_from_config({"model_id": given, "llm_engine": "vllm", "accelerator_type": "CPU"})
