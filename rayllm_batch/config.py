"""The engine configuration: which model, on which accelerator, with which vLLM settings."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rayllm_batch import engine_args, legacy
from rayllm_batch.errors import ConfigError, did_you_mean, is_deep
from rayllm_batch.secret import Secret

TOP_LEVEL_KEYS = (
    "model_id", "llm_engine", "accelerator_type", "engine_kwargs", "runtime_env", "lora_config",
    "chat_template", "chat_template_kwargs", "engines_per_gpu",
)
REQUIRED_KEYS = ("model_id", "llm_engine", "accelerator_type")
ENGINES = ("vllm", "echo")
SHARED_MEMORY = 0.9  # of a GPU, for the engines on it together, where the config does not say each one's share


class EnvVars(dict):
    """Environment variables for the engine's processes. Printing them shows the names only: some are secrets.

    The values are Secrets, so that a plain copy (`dict(env_vars)`, `{**env_vars}`) in a traceback hides them too.
    """

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: '***'" for name in self) + "}"

    __str__ = __repr__


@dataclass(frozen=True)
class EngineConfig:
    """A checked configuration. Build it with `init_engine_from_config`.

    model_id:        a Hugging Face repository, or a local folder ("./x" and "../x" start from the YAML's folder).
    llm_engine:      "vllm", or "echo" (no model at all: it repeats the prompt; for tests of scale and faults).
    accelerator_type: Ray's name of the GPU ("A10G", "L4", "L40S", "A100", "H100", "H200", ...), "GPU" for one of any
                     kind, or "CPU".
    engine_kwargs:   keyword arguments of vLLM's `AsyncEngineArgs`.
    env_vars:        environment of the engine's processes, names in upper case, values strings.
    dynamic_lora_loading_path: folder (a path that starts from the YAML's folder) or URI that holds one LoRA adapter a
                     sub-folder; None without LoRA.
    chat_template:   a Jinja file (its path starts from the YAML's folder) or the template's text, for a model whose
                     tokenizer has none.
    chat_template_kwargs: extra variables of the chat template, such as `enable_thinking: false`.
    engines_per_gpu: engines that share each replica's GPU, for small models, whose engine is held up by its CPU side. Each
                     gets gpu_memory_utilization 0.9 / engines_per_gpu, unless engine_kwargs says otherwise. None: one, or
                     what a run with batch_size=None chooses.
    """

    model_id: str
    llm_engine: str
    accelerator_type: str
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    env_vars: EnvVars = field(default_factory=EnvVars)
    dynamic_lora_loading_path: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    engines_per_gpu: int | None = None

    @property
    def engines_per_replica(self) -> int:
        """How many engines one of num_replicas is: one, or engines_per_gpu."""
        return self.engines_per_gpu or 1

    @property
    def gpus_per_replica(self) -> float:
        """GPUs that one engine takes: tensor_parallel_size x pipeline_parallel_size, a part of one where engines share
        it, and 0 on CPU."""
        if self.accelerator_type == "CPU" or self.llm_engine == "echo":
            return 0
        if self.engines_per_replica > 1:
            return int(10_000 / self.engines_per_gpu) / 10_000  # Ray's precision; rounded up, the last would not fit
        # "or 1": a key without a value in the YAML is None, and stands for vLLM's default
        return (self.engine_kwargs.get("tensor_parallel_size") or 1) * (
            self.engine_kwargs.get("pipeline_parallel_size") or 1
        )

    @property
    def memory_share(self) -> float | None:
        """Of its GPU's memory, what one engine may use: gpu_memory_utilization; None leaves it to vLLM."""
        given = self.engine_kwargs.get("gpu_memory_utilization")
        if given is None and self.engines_per_replica > 1:
            return round(SHARED_MEMORY / self.engines_per_gpu, 3)
        return given

    @property
    def hf_token(self) -> str | None:
        """The Hugging Face token that the configuration carries, if any."""
        return self.env_vars.get("HF_TOKEN") or None


def init_engine_from_config(
    config: str | os.PathLike | Mapping[str, Any] | EngineConfig, override: Mapping[str, Any] | None = None
) -> EngineConfig:
    """Read, merge and check an engine configuration; nothing is started and no model is loaded.

    config:   a YAML file's path, or the same as a dict. It is never changed.
    override: merged deeply over it: dicts key by key, everything else replaced.

    Raises ConfigError for a file that is missing or not a mapping, for an unknown key (it names the nearest
    known one) and for a value of the wrong kind. Settings of 2024's vLLM are translated or dropped, with one
    warning that names each.
    """
    if isinstance(config, EngineConfig):
        if override:
            raise ConfigError("override= goes with a YAML path or a dict; config= is an EngineConfig already.")
        return config
    _check_depth(config, override)
    source, folder, raw = _read(config)
    _check_depth(raw)  # YAML can name what holds itself, too
    if override is not None and not isinstance(override, Mapping):
        raise ConfigError(f"override must be a dict such as {{'engine_kwargs': {{...}}}}, given {_kind(override)}.")
    raw = _merged(raw, override or {})
    return _build(raw, source, folder)


def _check_depth(*given: Any) -> None:
    if any(map(is_deep, given)):
        raise ConfigError("The config holds lists or dicts in more than 100 levels, or one that holds itself. Make it flatter.")


def _read(config: Any) -> tuple[str, Path, dict[str, Any]]:
    """Where the configuration comes from, for messages; the folder its paths start from; a deep copy of what it holds."""
    if isinstance(config, Mapping):
        return "the config dict", Path.cwd(), copy.deepcopy(dict(config))
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigError(f"config must be the path of a YAML file or a dict, given {_kind(config)}.")
    path = Path(config).expanduser()
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        there = f"{path.parent}/ has: {', '.join(beside)}." if beside else f"{path.parent}/ has no YAML file."
        raise ConfigError(
            f"Config file {str(path)!r} does not exist (looked from {os.getcwd()}). {there}"
            f"{did_you_mean(path.name, beside)}"
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Config file {str(path)!r} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"Config file {str(path)!r} is not UTF-8 text (byte {error.start} is not).") from None
    except RecursionError:
        raise ConfigError(f"Config file {str(path)!r} holds lists or mappings in too many levels. Make it flatter.") from None
    except Exception as error:  # no YAMLError is that of a date such as 2024-99-99
        raise ConfigError(f"Config file {str(path)!r} is not valid YAML{_where_in_yaml(error)}.") from None
    if raw is None:
        raise ConfigError(f"Config file {str(path)!r} is empty. It needs at least {', '.join(REQUIRED_KEYS)}.")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"Config file {str(path)!r} must hold a mapping of keys to values (model_id: ...), "
            f"but its top level is {_kind(raw)}."
        )
    return f"config file {str(path)!r}", path.parent, raw


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _build(raw: dict[str, Any], source: str, folder: Path) -> EngineConfig:
    notes = legacy.translate(raw)
    if notes:
        warnings.warn(
            f"{source} uses settings that today's vLLM does not have:\n" + "\n".join(f"  - {note}" for note in notes),
            stacklevel=3,
        )
    for key in raw:
        if key not in TOP_LEVEL_KEYS:
            hint = did_you_mean(key, TOP_LEVEL_KEYS)
            if key in engine_args.known_fields() and key not in engine_args.OURS:
                hint = f" {key!r} is a vLLM setting: put it under engine_kwargs."
            raise ConfigError(f"Unknown key {key!r} in {source}.{hint} Known keys: {', '.join(TOP_LEVEL_KEYS)}.")
    for key in REQUIRED_KEYS:
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            given = "it is missing" if raw.get(key) is None else f"given {raw[key]!r}"
            raise ConfigError(f"{source} needs {key!r} as text; {given}. {_EXAMPLE[key]}")
    llm_engine = raw["llm_engine"].strip().lower()
    if llm_engine not in ENGINES:
        raise ConfigError(
            f"llm_engine must be one of {', '.join(ENGINES)}; {source} has {raw['llm_engine']!r}."
            f"{did_you_mean(llm_engine, ENGINES)}"
        )
    engine_kwargs = dict(_mapping(raw, "engine_kwargs", source))
    runtime_env = _mapping(raw, "runtime_env", source)
    _only(runtime_env, ("env_vars",), "runtime_env", source)
    lora_config = _mapping(raw, "lora_config", source)
    _only(lora_config, ("dynamic_lora_loading_path",), "lora_config", source)
    env_vars = EnvVars(
        (str(name).upper(), _env_text(name, value, source))
        for name, value in _mapping(runtime_env, "env_vars", source).items()
        if value is not None
    )
    token = engine_kwargs.pop("hf_token", None)  # one place for the secret, and none that gets printed
    if isinstance(token, str) and token:  # vLLM's `true` means the stored token, which is looked up anyway
        env_vars.setdefault("HF_TOKEN", Secret(token))
    engine_args.check(engine_kwargs, llm_engine, source)
    engines_per_gpu = _engines_per_gpu(raw.get("engines_per_gpu"), engine_kwargs, source)
    lora_path = _lora_path(lora_config.get("dynamic_lora_loading_path"), source, folder)
    if lora_path is not None:
        engine_kwargs.setdefault("enable_lora", True)
    return EngineConfig(
        model_id=_model(raw["model_id"].strip(), source, folder),
        llm_engine=llm_engine,
        accelerator_type=raw["accelerator_type"].strip().upper(),
        engine_kwargs=engine_kwargs,
        env_vars=env_vars,
        dynamic_lora_loading_path=lora_path,
        chat_template=_template_text(raw.get("chat_template"), source, folder),
        chat_template_kwargs=dict(_mapping(raw, "chat_template_kwargs", source)),
        engines_per_gpu=engines_per_gpu,
    )


_EXAMPLE = {
    "model_id": "For example: model_id: meta-llama/Llama-3.1-8B-Instruct",
    "llm_engine": "For example: llm_engine: vllm",
    "accelerator_type": "For example: accelerator_type: A10G (or L4, L40S, A100, H100, H200, CPU)",
}


def _mapping(raw: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key!r} in {source} must be a mapping of names to values, given {_kind(value)}.")
    return value


def _only(given: Mapping[str, Any], known: tuple[str, ...], where: str, source: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"Unknown key {key!r} under {where} in {source}.{did_you_mean(key, known)} Known: {', '.join(known)}."
            )


def _engines_per_gpu(value: Any, engine_kwargs: Mapping[str, Any], source: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"engines_per_gpu in {source} must be a whole number of at least 1, given {value!r}.")
    split = [key for key in ("tensor_parallel_size", "pipeline_parallel_size") if (engine_kwargs.get(key) or 1) > 1]
    if value > 1 and split:
        raise ConfigError(
            f"engines_per_gpu={value} in {source} puts several engines on one GPU, but {split[0]}={engine_kwargs[split[0]]} "
            "splits one engine over several. Use one or the other."
        )
    share = engine_kwargs.get("gpu_memory_utilization")
    if value > 1 and isinstance(share, (int, float)) and share * value > 1:
        raise ConfigError(
            f"engines_per_gpu={value} in {source} times gpu_memory_utilization={share:g} is more than one GPU has. Set "
            f"gpu_memory_utilization to {SHARED_MEMORY / value:.2f}, or leave it out."
        )
    return value


def _env_text(name: Any, value: Any, source: str) -> str:
    if isinstance(value, bool):
        return Secret(int(value))
    if isinstance(value, (str, int, float)):
        return Secret(value)
    raise ConfigError(f"Environment variable {name!r} in {source} must be text or a number, given {_kind(value)}.")


def _model(model_id: str, source: str, folder: Path) -> str:
    """A folder as an absolute path (workers have another working directory), a Hub id as it is."""
    if model_id.startswith(("./", "../", "/", "~")):
        path = (folder / Path(model_id).expanduser()).resolve()
        if not path.is_dir():
            raise ConfigError(f"model_id in {source} is the folder {model_id!r}, which does not exist ({path}).")
        return str(path)
    return str(Path(model_id).resolve()) if Path(model_id).is_dir() else model_id


def _lora_path(value: Any, source: str, folder: Path) -> str | None:
    """A folder as an absolute path (workers have another working directory), a URI as it is."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"dynamic_lora_loading_path in {source} must be a folder or a URI, given {_kind(value)}.")
    text = os.fspath(value)
    return text if "://" in text else str((folder / Path(text).expanduser()).resolve())


def _template_text(value: Any, source: str, folder: Path) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"chat_template in {source} must be a Jinja file's path or its text, given {_kind(value)}.")
    if "{" in value or "\n" in value:
        return value
    path = (folder / Path(value).expanduser()).resolve()
    if not path.is_file():
        raise ConfigError(f"chat_template in {source} names the file {value!r}, which does not exist ({path}).")
    return path.read_text(encoding="utf-8")


def _where_in_yaml(error: Exception) -> str:
    """` at line 3, column 5: found a tab`; not the line itself, which PyYAML would quote and which may hold a token."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return (f" at line {mark.line + 1}, column {mark.column + 1}" if mark else "") + (f": {problem}" if problem else "")


def _kind(value: Any) -> str:
    """The kind of a value for a message; never the value itself, which may hold a secret."""
    names = {list: "a list", tuple: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
