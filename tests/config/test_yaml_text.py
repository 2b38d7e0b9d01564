"""A config's YAML: values that YAML 1.1 takes for others, and keys that come twice."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.config import yaml_text
from rayllm_batch.errors import ConfigError

HEAD = "model_id: a/b\nllm_engine: echo\naccelerator_type: CPU\n"


@pytest.mark.parametrize(
    "text, value",
    [
        ("0123456", "0123456"),
        ("12:30", "12:30"),
        ("2024-03-01", "2024-03-01"),
        ("0x10", "0x10"),
        ("-8_192", -8192),
        ("0", 0),
        ("0.5", 0.5),
        ("yes", True),
        ("~", None),
        ("[1, 02]", [1, "02"]),
        ("{on: 1, 5: {no: true}}", {"on": 1, "5": {"no": True}}),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert yaml_text.read(f"key: {text}") == {"key": value}


def test_merge_keys_and_aliases() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, *a], z: 4}\nd: *a\n"
    a = {"x": 1, "y": 2}
    assert yaml_text.read(text) == {"a": a, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 3, "z": 4}, "d": a}
    assert yaml_text.read("# nothing\n") is None


def test_json_may_be_indented_with_tabs() -> None:
    assert yaml_text.read('{\n\t"a": [\n\t\t1,\n\t\t"\\u00e9"\n\t]\n}\n') == {"a": [1, "\u00e9"]}


def test_an_environment_has_what_stands_there(tmp_path: Path) -> None:
    written = {
        "V": "1.10",
        "MODE": "010",
        "AT": "12:30",
        "SINCE": "2024-03-01",
        "BIG": "1e3",
        "MANY": "1_000",
        "NO": "x",
    }
    lines = "".join(f"    {name}: {value}\n" for name, value in written.items())
    path = tmp_path / "config.yaml"
    path.write_text(
        f"{HEAD}engine_kwargs:\n  max_num_seqs: &n 8\nruntime_env:\n  env_vars:\n{lines}    N: *n\n    ON: yes\n"
    )
    config = init_engine_from_config(path)
    assert dict(config.env_vars) == {**written, "N": "8", "ON": "1"} and config.engine_kwargs == {"max_num_seqs": 8}


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "engine_kwargs:\n  max_num_seqs: 4\n  'max_num_seqs': 8\n",
            "line 6, column 3: the key 'max_num_seqs' comes twice",
        ),
        ("engine_kwargs: {}\nllm_engine: vllm\n", "line 5, column 1: the key 'llm_engine' comes twice"),
        ("runtime_env: {env_vars: {HF_TOKEN: hf_secret, HF_TOKEN: other}}\n", "the key 'HF_TOKEN' comes twice"),
    ],
)
def test_no_key_comes_twice(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(ConfigError, match="is not valid YAML") as refused:
        init_engine_from_config(path)
    assert said in str(refused.value) and "hf_secret" not in str(refused.value)


@pytest.mark.parametrize("mark", "!*")
def test_a_password_that_yaml_reads_as_its_own_is_not_shown(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{HEAD}runtime_env:\n  env_vars:\n    PASSWORD: {mark}S3cret\n")
    with pytest.raises(ConfigError, match="line 6, column 15: text that begins with .* stands in quotes") as refused:
        init_engine_from_config(path)
    assert "S3cret" not in str(refused.value)


@pytest.mark.parametrize("value", ["${HF_TOKEN}", "$HF_TOKEN", "${HOME}/cache"])
def test_a_variable_that_nobody_fills_in(value: str) -> None:
    given = {"model_id": "a/b", "llm_engine": "echo", "accelerator_type": "CPU"}
    with pytest.raises(ConfigError, match="'HF_HOME' in the config dict has .*nothing is put in its place"):
        init_engine_from_config({**given, "runtime_env": {"env_vars": {"HF_HOME": value}}})
    init_engine_from_config({**given, "runtime_env": {"env_vars": {"A": "pa$$word", "B": "%{x}$", "C": "$1.50"}}})


def test_yaml_in_place_of_its_path() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        init_engine_from_config(HEAD + "# " + "x" * 300)


def test_keys_of_a_free_mapping_are_names() -> None:
    kwargs = {"base_url": "http://localhost:8000/v1", "extra_body": {5: 1}}
    with pytest.raises(ConfigError, match="'extra_body' in engine_kwargs of the config dict must be a mapping"):
        init_engine_from_config({"model_id": "m", "llm_engine": "openai", "engine_kwargs": kwargs})


@pytest.mark.parametrize("mistake", ["x: [", "model: a/b", "engine_kwargs: {dtypo: half}", "task: embeds"])
def test_no_frame_of_an_error_shows_a_token(tmp_path: Path, mistake: str) -> None:
    """Error pages and `%xmode Verbose` show the variables of every frame."""
    path = tmp_path / "config.yaml"
    path.write_text(f"{HEAD}runtime_env:\n  env_vars:\n    HF_TOKEN: hf_verysecret\n{mistake}\n")
    with pytest.raises(ConfigError) as refused:
        init_engine_from_config(path, override={"runtime_env": {"env_vars": {"OTHER": "hf_verysecret"}}})
    frames = traceback.TracebackException.from_exception(refused.value, capture_locals=True).stack
    shown = [value for frame in frames if "/tests/" not in frame.filename for value in (frame.locals or {}).values()]
    assert shown and not any("verysecret" in value for value in shown)
