"""The engine configuration: which model, on which accelerator, with which vLLM settings."""

from __future__ import annotations

import copy
import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictStr, StringConstraints

from rayllm_batch.config import legacy, yaml_text
from rayllm_batch.engine import ENGINES, engine_args
from rayllm_batch.engine.base import EngineKind
from rayllm_batch.engine.parallel import is_placed_by_ray
from rayllm_batch.errors import ConfigError, did_you_mean, is_deep
from rayllm_batch.secret import Secret
from rayllm_batch.shape import checked, kind_of
from rayllm_batch.tasks import TASKS
from rayllm_batch.tasks.base import Task
from rayllm_batch.uri import without_credentials

SHARED_MEMORY = 0.9  # of a GPU, for the engines on it together, where the config does not say each one's share


class EnvVars(dict):
    """Environment of the engine's processes. Printed, it shows names only; its values are Secrets, in a copy too."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: '***'" for name in self) + "}"


_Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]
_HEADING = BeforeValidator(lambda value: {} if value is None else value)  # a heading without anything under it
_Names = Annotated[dict[Any, Any], _HEADING, Field(default_factory=dict)]
_PATH = BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)


class _RuntimeEnv(BaseModel, extra="forbid"):
    env_vars: _Names


class _LoraConfig(BaseModel, extra="forbid"):
    dynamic_lora_loading_path: Annotated[_Text | None, _PATH] = Field(None, description="a folder or a URI")


class _Given(BaseModel, extra="forbid"):
    """What a YAML may hold. pydantic checks that; what travels to workers, an EngineConfig, is a plain dataclass."""

    model_id: _Text = Field(description="text", examples=["meta-llama/Llama-3.1-8B-Instruct"])
    llm_engine: _Text = Field(description="text", examples=["vllm"])
    accelerator_type: _Text = Field(description="text", examples=["A10G (or L4, L40S, A100, H100, H200, CPU)"])
    engine_kwargs: _Names
    runtime_env: Annotated[_RuntimeEnv, _HEADING, Field(default_factory=_RuntimeEnv)]
    lora_config: Annotated[_LoraConfig, _HEADING, Field(default_factory=_LoraConfig)]
    chat_template: StrictStr | None = Field(None, description="a Jinja file's path or its text")
    chat_template_kwargs: _Names
    engines_per_gpu: engine_args.Size = None
    task: StrictStr | None = Field(None, description="text", examples=["generate"])
    batch_invariant: StrictBool | None = Field(None, description="true or false", examples=[True])


HOLDING_SECRETS = ("runtime_env", "env_vars", "engine_kwargs", "hf_token", "base_url")
NOT_FILLED = re.compile(r"\$\{[A-Z_][A-Z0-9_]*\}|^\$[A-Z_][A-Z0-9_]*$")  # as shells and templates write a variable
NOT_INVARIANT = ("CPU", "T4", "V100", "A10G", "A100", "A100-40G", "A100-80G", "L4", "L40S")


@dataclass(frozen=True)
class EngineConfig:
    """A checked configuration. Build it with `init_engine_from_config`.

    model_id: a Hugging Face repository (also as hf://org/model), or a local folder ("./x" starts from the YAML's
        folder, as all paths do).
    llm_engine: "vllm"; "openai" (a server with the OpenAI API, which has the model: model_id is its name there, and
        engine_kwargs are those of configs/openai-endpoint.yaml); or "echo" (no model at all: it repeats the prompt; for
        tests of scale and faults).
    accelerator_type: Ray's name of the GPU ("A10G", "L4", "H100", ...), "GPU" for one of any kind, or "CPU".
    engine_kwargs: keyword arguments of vLLM's `AsyncEngineArgs`; and `tool_parser`, one of vLLM's that read calls of
        tools. `reasoning_parser` brings the columns `reasoning` and `num_reasoning_tokens` (null where the parser does
        not count), `tool_parser` brings `tool_calls`, each {id, name, arguments as JSON text}. `generated_text` is then
        what is left, null where that is nothing. An answer that is all thoughts, such as one cut at max_tokens, is the
        row's error, and so is a call whose arguments are no JSON; what there is stays. With n above 1, both are lists,
        of each answer, and the tokens are those of all.
    env_vars: environment of the engine's processes, names in upper case, values strings.
    dynamic_lora_loading_path: a folder or URI that holds one LoRA adapter a sub-folder; None without LoRA.
    chat_template: a Jinja file or the template's text, for a model whose tokenizer has none.
    chat_template_kwargs: extra variables of the chat template, such as `enable_thinking: false`.
    engines_per_gpu: engines that share each replica's GPU, for small models, whose engine is held up by its CPU side.
        Each gets gpu_memory_utilization 0.9 / engines_per_gpu, unless engine_kwargs says otherwise. None: one, or what
        a run with batch_size=None chooses.
    batch_invariant: a row gets the same answer whatever else is in its batch (vLLM's VLLM_BATCH_INVARIANT), on one kind
        of GPU and one tensor_parallel_size. It takes a GPU of compute capability 9.0 (H100 and later), and time.
    task: what is asked of the model for each row, and which columns come out: "generate"; or of a pooling model "embed"
        (`embedding`), "classify" (`label`, `probabilities`) or "score" (`score`, `scores`).
    engine_kind, task_kind: what these two names stand for. They travel along to where their modules are not installed.
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
    task: str = "generate"
    batch_invariant: bool = False
    engine_kind: EngineKind = field(init=False, repr=False, compare=False)
    task_kind: Task = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "engine_kind", ENGINES.get(self.llm_engine))
        object.__setattr__(self, "task_kind", TASKS.get(self.task))

    @property
    def engines_per_replica(self) -> int:
        """How many engines one of num_replicas is."""
        return self.engines_per_gpu or 1

    @property
    def gpus_per_replica(self) -> float:
        """GPUs that one engine takes, a part of one where engines share it, and 0 on CPU."""
        if self.accelerator_type == "CPU" or not self.engine_kind.needs_gpus:
            return 0
        if self.engines_per_replica > 1:
            return int(10_000 / self.engines_per_replica) / 10_000  # Ray's precision; rounded up, the last had no room
        return math.prod(_split(self.engine_kwargs).values())

    @property
    def memory_share(self) -> float | None:
        """Of its GPU's memory, what one engine may use: gpu_memory_utilization; None leaves it to vLLM."""
        given = self.engine_kwargs.get("gpu_memory_utilization")
        if given is None and self.engines_per_replica > 1:
            return round(SHARED_MEMORY / self.engines_per_replica, 3)
        return given

    @property
    def hf_token(self) -> str | None:
        """The Hugging Face token that the configuration carries, if any."""
        return self.env_vars.get("HF_TOKEN") or None


def _split(engine_kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Over how many GPUs one engine is split, by each setting; a key without a value is None, and vLLM's default."""
    kinds = ("tensor", "pipeline", "data")
    return {key: engine_kwargs.get(key) or 1 for key in (f"{kind}_parallel_size" for kind in kinds)}


def init_engine_from_config(
    config: str | os.PathLike | Mapping[str, Any] | EngineConfig, override: Mapping[str, Any] | None = None
) -> EngineConfig:
    """Read, merge and check an engine configuration; nothing is started and no model is loaded.

    config:   a YAML file's path, or the same as a dict. It is never changed.
    override: merged deeply over it: dicts key by key, everything else replaced.

    Raises ConfigError for a file that is missing or not a mapping, an unknown key, or a value of the wrong kind.
    Settings of 2024's vLLM are translated or dropped, with one warning that names each.
    """
    if isinstance(config, EngineConfig):
        if override:
            raise ConfigError("override= goes with a YAML path or a dict; config= is an EngineConfig already.")
        return config
    override = _hidden(override)
    source, folder, raw = _read(config)
    raw = _hidden(raw)
    if is_deep(raw) or is_deep(override):  # YAML can name what holds itself, too
        deep = "holds lists or dicts in more than 100 levels, or one that holds itself"
        raise ConfigError(f"The config {deep}. Make it flatter.")
    if override is not None and not isinstance(override, Mapping):
        raise ConfigError(f"override must be a dict such as {{'engine_kwargs': {{...}}}}, given {kind_of(override)}.")
    return _build(_merged(_merged({}, raw), override or {}), source, folder)


def _read(config: Any) -> tuple[str, Path, Mapping[str, Any]]:
    """Where the configuration comes from, for messages; the folder its paths start from; what it holds."""
    if isinstance(config, Mapping):
        return "the config dict", Path.cwd(), config
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigError(f"config must be the path of a YAML file or a dict, given {kind_of(config)}.")
    path = Path(config).expanduser()
    file = f"Config file {str(path)!r}"
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long, as YAML text in its place is
        beside = sorted(p.name for p in path.parent.glob("*.y*ml")) if os.path.isdir(path.parent) else []
        there = f"{path.parent}/ has: {', '.join(beside)}." if beside else f"{path.parent}/ has no YAML file."
        near = did_you_mean(path.name, beside)
        raise ConfigError(f"{file} does not exist (looked from {os.getcwd()}). {there}{near}")
    text = Secret(_text_of(path, "Config file"))
    try:
        raw = yaml_text.read(text)
    except RecursionError:
        raise ConfigError(f"{file} has lists or mappings in too many levels: flatten it.") from None
    except Exception as error:  # not all are YAMLError: `!!timestamp x`
        raise ConfigError(f"{file} is not valid YAML{_where_in_yaml(error)}.") from None
    if raw is None:
        needed = ", ".join(name for name, spec in _Given.model_fields.items() if spec.is_required())
        raise ConfigError(f"{file} is empty. It needs at least {needed}.")
    if not isinstance(raw, dict):
        top = f"its top level is {kind_of(raw)}"
        raise ConfigError(f"{file} must hold a mapping of keys to values (model_id: ...), but {top}.")
    return f"config file {str(path)!r}", path.parent, raw


def _hidden(given: Any, name: Any = None, levels: int = 2) -> Any:
    """With Secrets for the values that may be some: what shows an error may show its frames' variables too. name: the
    key that it stands under. levels: of sections below it, none of which needs to end by itself.
    """
    if not isinstance(given, Mapping):
        return Secret(given) if isinstance(given, str) and name in ("hf_token", "base_url") else given
    if name == "env_vars":
        return {key: Secret(value) if isinstance(value, str) else value for key, value in given.items()}
    if not levels:
        return given
    return {key: _hidden(value, key, levels - 1) if key in HOLDING_SECRETS else value for key, value in given.items()}


def _text_of(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {str(path)!r} is not UTF-8 text (byte {error.start} is not).") from None


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _build(raw: dict[str, Any], source: str, folder: Path) -> EngineConfig:
    for key in raw:
        if key in engine_args.known_fields() and key not in {*_Given.model_fields, *engine_args.OURS}:
            raise ConfigError(f"{key!r} in {source} is a vLLM setting: put it under engine_kwargs.")
    is_elsewhere = _is_elsewhere(raw)
    if is_elsewhere:
        raw = {"accelerator_type": "CPU", **raw}
    given = checked(_Given, raw, source)
    engine_kwargs = given.engine_kwargs
    if notes := legacy.translate(engine_kwargs, given.runtime_env.env_vars):
        warnings.warn(
            f"{source} uses settings that today's vLLM does not have (translated until {legacy.UNTIL}):\n"
            + "\n".join(f"  - {note}" for note in notes),
            stacklevel=3,
        )
    llm_engine = ENGINES.check(given.llm_engine, source)
    task = TASKS.check(given.task or "generate", source)
    env_vars = EnvVars()
    for name, value in given.runtime_env.env_vars.items():
        if isinstance(value, str) and (left := NOT_FILLED.search(value)):
            raise ConfigError(
                f"Environment variable {name!r} in {source} has {left[0]}, and nothing is put in its place. Give it in "
                f"override={{'runtime_env': {{'env_vars': {{{name!r}: os.environ[...]}}}}}}; HF_TOKEN and keys of "
                "endpoints are found in this process's environment."
            )
        if isinstance(value, (str, int, float)):
            env_vars[name] = Secret(int(value) if isinstance(value, bool) else value)
        elif value is not None:
            given_kind = f"given {kind_of(value)}"
            raise ConfigError(f"Environment variable {name!r} in {source} must be text or a number, {given_kind}.")
    token = engine_kwargs.pop("hf_token", None)  # one place for the secret, and none that gets printed
    if isinstance(token, str) and token:  # vLLM's `true` means the stored token, which is looked up anyway
        env_vars.setdefault("HF_TOKEN", Secret(token))
    engine_kwargs = ENGINES.get(llm_engine).check_settings(engine_kwargs, source, given.model_id)
    TASKS.get(task).check_engine(engine_kwargs, source)
    if TASKS.get(task).pools and not ENGINES.get(llm_engine).pools:
        raise ConfigError(
            f"task: {task} needs a pooling engine, but llm_engine in {source} is {llm_engine}, which only "
            "generates. Set llm_engine: vllm."
        )
    if is_elsewhere:
        _check_elsewhere(given, source)
    _check_sharing(given.engines_per_gpu or 1, engine_kwargs, source)
    if (lora_path := given.lora_config.dynamic_lora_loading_path) is not None:
        lora_path = lora_path if "://" in lora_path else str(_path(lora_path, folder))
        engine_kwargs.setdefault("enable_lora", True)
    return EngineConfig(
        model_id=given.model_id if is_elsewhere else _model(given.model_id, source, folder),
        llm_engine=llm_engine,
        accelerator_type=given.accelerator_type.upper(),
        engine_kwargs=engine_kwargs,
        env_vars=env_vars,
        dynamic_lora_loading_path=lora_path,
        chat_template=_template_text(given.chat_template, source, folder),
        chat_template_kwargs=given.chat_template_kwargs,
        engines_per_gpu=given.engines_per_gpu,
        task=task,
        batch_invariant=_batch_invariant(given, source),
    )


def _is_elsewhere(raw: Mapping[str, Any]) -> bool:
    """Whether the engine that is named needs nothing of a model here; which one that is, is checked later."""
    try:
        return ENGINES.get(ENGINES.check(raw.get("llm_engine"), "")).tokenizes
    except ConfigError:
        return False


def _check_elsewhere(given: _Given, source: str) -> None:
    named = {
        "chat_template": given.chat_template,
        "lora_config": given.lora_config.dynamic_lora_loading_path,
        "engines_per_gpu": given.engines_per_gpu,
        "batch_invariant": given.batch_invariant,
    }
    if idle := next((key for key, value in named.items() if value), None):
        raise ConfigError(
            f"{idle} in {source} has no effect on llm_engine {given.llm_engine}: the server decides it. Remove it."
        )


def _batch_invariant(given: _Given, source: str) -> bool:
    """As the key says, or the environment variable that is vLLM's own name of it: either decides answers."""
    kind, name = given.accelerator_type.upper(), "VLLM_BATCH_INVARIANT"
    asked = given.batch_invariant or str(given.runtime_env.env_vars.get(name, "0")) not in ("0", "False")
    if asked and kind in NOT_INVARIANT:
        raise ConfigError(
            f"batch_invariant in {source} needs a GPU of compute capability 9.0 or higher, such as H100 or H200, but "
            f"accelerator_type is {kind}. Leave it out."
        )
    return asked


def _check_sharing(engines: int, engine_kwargs: Mapping[str, Any], source: str) -> None:
    if engines == 1:
        return
    for key, parts in _split(engine_kwargs).items():
        if parts > 1:
            raise ConfigError(
                f"engines_per_gpu={engines} in {source} puts several engines on one GPU, but {key}={parts} splits one "
                "engine over several. Use one or the other."
            )
    if is_placed_by_ray(engine_kwargs):
        raise ConfigError(
            f"engines_per_gpu={engines} in {source} puts several engines on one GPU, but with "
            "distributed_executor_backend: ray each worker has a GPU of its own. Use one or the other."
        )
    share = engine_kwargs.get("gpu_memory_utilization")
    if share is not None and share * engines > 1:
        raise ConfigError(
            f"engines_per_gpu={engines} in {source} times gpu_memory_utilization={share:g} is more than one GPU has. "
            f"Set gpu_memory_utilization to {SHARED_MEMORY / engines:.2f}, or leave it out."
        )


def _path(value: str, folder: Path) -> Path:
    """Absolute, since workers have another working directory."""
    return (folder / Path(value).expanduser()).resolve()


def _model(model_id: str, source: str, folder: Path) -> str:
    """A folder's path, or a Hub id as it is."""
    if model_id.startswith(("./", "../", "/", "~")):
        path = _path(model_id, folder)
        if not os.path.isdir(path):
            raise ConfigError(f"model_id in {source} is the folder {model_id!r}, which does not exist ({path}).")
        return str(path)
    if model_id.startswith("hf://"):  # as data and output folders are written
        name = model_id.removeprefix("hf://").removeprefix("models/").rstrip("/")
        if name.count("/") > 1 or "@" in name or not name:
            raise ConfigError(
                f"model_id in {source} is {model_id!r}, which names no model: write hf://org/model, or org/model, and "
                "a revision as `revision` under engine_kwargs."
            )
        return name
    scheme, _, rest = model_id.partition("://")
    if rest and scheme.lower() in ("http", "https", "file"):
        name = "/".join(rest.split("/")[1:3]) if scheme.lower() != "file" else f"/{rest.lstrip('/')}"
        raise ConfigError(
            f"model_id in {source} is {without_credentials(model_id)!r}, which no engine reads: write a model's id, or "
            f"the path of its folder, here {name or 'org/model'}."
        )
    return str(Path(model_id).resolve()) if os.path.isdir(model_id) else model_id


def _template_text(value: str | None, source: str, folder: Path) -> str | None:
    if value is None or "{" in value or "\n" in value:
        return value
    path = _path(value, folder)
    if not path.is_file():
        raise ConfigError(f"chat_template in {source} names the file {value!r}, which does not exist ({path}).")
    return _text_of(path, "chat_template")


def _where_in_yaml(error: Exception) -> str:
    """` at line 3, column 5: found a tab`; not the line itself, which PyYAML would quote and which may hold a token."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if re.match("could not determine a constructor|found undefined alias|found duplicate anchor", problem or ""):
        problem = "text that begins with !, & or * stands in quotes"  # it may be a password, and it is quoted there
    return (f" at line {mark.line + 1}, column {mark.column + 1}" if mark else "") + (f": {problem}" if problem else "")
