"""What can be known of a model before an engine starts: its weights against the GPU's memory, its chat template."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.cluster.versions import only_here
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.engine_args import UTILIZATION
from rayllm_batch.engine.parallel import copies
from rayllm_batch.errors import ClusterError, ConfigError, HubUnavailableError, ModelNotFoundError
from rayllm_batch.model.files import WEIGHTS, download_model, files_to_skip
from rayllm_batch.model.folder import INDEX, check_folder, odd_fields, read_object, shards_in
from rayllm_batch.model.hub import is_local, is_offline
from rayllm_batch.model.hub_client import HubClient
from rayllm_batch.secret import Secret
from rayllm_batch.workers.tokenizer import no_chat_template

GIB = 1 << 30
# GiB that the driver reports for the largest model of each kind ("A100" may have 40 or 80): from the vendor's data
# sheets, so a job that is refused here would not fit.
GPU_MEMORY_GIB = {"T4": 15, "V100": 32, "A10": 22.5, "A10G": 22.5, "L4": 22.5, "L40S": 45}
GPU_MEMORY_GIB |= {"A100": 80, "A100-40G": 40, "A100-80G": 80, "H100": 80, "H200": 141, "B200": 180}
BESIDE_GIB = 2.0  # activations and CUDA graphs: for a max_model_len that is suggested, not for what is refused
BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
CHECKED = ("auto", "hf", "safetensors", "mistral", "pt", "npcache")  # load_formats; others read files of their own
NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
NO_WEIGHTS |= {"adapter_model.safetensors", "adapter_model.bin"}
# Every layer of these keeps keys and values of all tokens, so their KV cache is known. Others (MLA, Mamba, windows,
# layers that share) keep less, each in its own way.
PLAIN_ATTENTION = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi", "phi3", "granite"}
PLAIN_ATTENTION |= {"granitemoe", "olmo", "olmo2", "olmoe", "gemma", "cohere", "stablelm", "starcoder2", "smollm3"}

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # as vLLM looks for them


@dataclass(frozen=True)
class ModelFacts:
    """config: of config.json. weight_bytes: on disk, of those files that the engine reads; None where it is not known.

    missing_bytes: of these, what is still to be downloaded to this machine. folder: where its small files are.
    """

    config: dict[str, Any] = field(default_factory=dict)
    weight_bytes: Optional[int] = None
    has_chat_template: Optional[bool] = None
    missing_bytes: int = 0
    folder: Optional[Path] = field(default=None, compare=False)


def look_at(config: EngineConfig, token: str) -> ModelFacts:
    """Read from the folder, the cache, or the Hub, without the weights. What cannot be read is left unknown."""
    model, kwargs = config.model_id, config.engine_kwargs
    load_format, revision = kwargs.get("load_format") or "auto", kwargs.get("revision")
    if is_local(model):
        folder = Path(model).expanduser()
        return _of_folder(folder, load_format) if folder.is_dir() else ModelFacts()
    try:
        # "dummy" leaves the weights out: a few small files, which the run needs anyway
        folder = Path(download_model(model, token or None, revision=revision, load_format="dummy"))
    except (HubUnavailableError, ModelNotFoundError):  # the workers may have it
        return ModelFacts()
    facts = _of_folder(folder, load_format)
    if is_offline():
        return facts
    try:
        info = HubClient(model, Secret(token) if token else None).info(revision, files_metadata=True)
    except HubUnavailableError:
        return facts
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    weights = _weights(list(sizes), load_format, folder)
    missing = sum(sizes[name] for name in weights if not (folder / name).exists())
    return replace(facts, weight_bytes=sum(sizes[name] for name in weights) or None, missing_bytes=missing)


def check_files(config: EngineConfig, facts: ModelFacts) -> None:
    """Raise ConfigError when the model's files cannot be a model, as far as they are on this machine.

    Raises ModelNotFoundError, without network, where engines start on this machine alone and its cache lacks the model.
    """
    model, kwargs = config.model_id, config.engine_kwargs
    load_format = kwargs.get("load_format") or "auto"
    needs_weights = config.engine_kind.needs_model and load_format != "dummy"
    complete = is_local(model) or is_offline() and only_here(config)
    if complete and not is_local(model):
        download_model(model, revision=kwargs.get("revision"), load_format=load_format if needs_weights else "dummy")
    if facts.folder is not None:
        checked = needs_weights and load_format in CHECKED
        check_folder(
            facts.folder,
            _weights(_names(facts.folder), load_format, facts.folder) if checked else None,
            own_tokenizer=not kwargs.get("tokenizer"),
            own_config=config.engine_kind.needs_model and not kwargs.get("hf_config_path"),
            complete=complete,
        )
    if (tokenizer := kwargs.get("tokenizer")) and is_local(tokenizer):
        if not (folder := Path(tokenizer).expanduser()).is_dir():
            raise ConfigError(f"tokenizer under engine_kwargs is the folder {tokenizer!r}, which does not exist.")
        check_folder(folder, None, own_config=False)


def check_chat_template(config: EngineConfig, facts: ModelFacts) -> None:
    """Raise ConfigError when messages cannot be turned into a prompt."""
    if facts.has_chat_template is False and config.chat_template is None and not config.engine_kwargs.get("tokenizer"):
        raise no_chat_template(config.model_id)


def check_parallel(config: EngineConfig, facts: ModelFacts) -> None:
    """Raise ConfigError where what spreads experts over GPUs is asked of a model that has none."""
    kwargs, inner = config.engine_kwargs, text_config(facts.config)
    if not facts.config or any(inner.get(name) for name in EXPERTS):
        return
    if (many := copies(kwargs)) > 1:
        raise ConfigError(
            f"data_parallel_size={many} is for models of experts (mixture of experts), and {config.model_id} is none: "
            "its copies would wait for each other at every step. Replicas are right: remove it, and give RayLLMBatch "
            f"num_replicas={many}. Each takes rows as it has room."
        )
    if kwargs.get("enable_expert_parallel"):
        raise ConfigError(
            f"enable_expert_parallel is for models of experts (mixture of experts), and {config.model_id} is none. "
            "Remove it; further GPUs are for further replicas, num_replicas."
        )


def check_memory(config: EngineConfig, facts: ModelFacts) -> None:
    """Raise ConfigError when the weights, or these and the KV cache of one longest request, exceed the GPU's memory.

    Where max_model_len is not set, the engine takes what its KV cache can hold.
    """
    weights, memory = weights_gib(config, facts), GPU_MEMORY_GIB.get(config.accelerator_type)
    if not weights or memory is None:
        return
    share = float(config.memory_share or UTILIZATION)
    room = memory * share
    used = f"of which gpu_memory_utilization={share:g} may be used ({room:.1f} GiB)"
    have = f"one {config.accelerator_type} has {memory:g} GiB, {used}"
    if weights > room:
        raise ConfigError(
            f"The weights of {config.model_id} take {weights:.1f} GiB a GPU, but {have}. Raise tensor_parallel_size, "
            "use a quantized or smaller model, or a larger GPU."
        )
    length, per_token = config.engine_kwargs.get("max_model_len"), kv_bytes_per_token(config, facts)
    if not isinstance(length, int) or length < 0 or not per_token:
        return
    cache = length * per_token / GIB
    if weights + cache > room:
        fits = int((room - weights - BESIDE_GIB) * GIB / per_token) // 256 * 256
        shorter = f"Set max_model_len to at most {fits:,} (or leave it out), or raise" if fits > 0 else "Raise"
        raise ConfigError(
            f"A request of max_model_len={length:,} needs {cache:.1f} GiB of KV cache a GPU beside {weights:.1f} GiB "
            f"of weights, but {have}. {shorter} tensor_parallel_size, or use a quantized or smaller model."
        )


def weights_gib(config: EngineConfig, facts: ModelFacts) -> float:
    """On each GPU of an engine; 0 where that is not known, or on CPU."""
    kwargs = config.engine_kwargs
    elsewhere = kwargs.get("load_format") == "dummy" or kwargs.get("cpu_offload_gb")
    if not config.gpus_per_replica or not facts.weight_bytes or elsewhere:
        return 0.0
    return facts.weight_bytes * _shrink(kwargs, facts.config) / _split(config) / GIB


def kv_bytes_per_token(config: EngineConfig, facts: ModelFacts) -> float:
    """Of the KV cache, on each GPU of an engine; 0 where that is not known."""
    split = _split(config) / copies(config.engine_kwargs)  # each copy keeps its own requests'
    return kv_values_per_token(facts.config) * _kv_bytes(config.engine_kwargs) / split


def _split(config: EngineConfig) -> float:
    """GPUs that one copy of the model is split over; engines that share a GPU have the whole model each.

    Data parallel copies share their experts, which are nearly all of the weights.
    """
    return max(1, config.gpus_per_replica)


def check_disk(config: EngineConfig, facts: ModelFacts) -> None:
    """Raise ClusterError when what is still to be downloaded does not fit on this machine's disk."""
    if not facts.missing_bytes or config.engine_kwargs.get("load_format") == "dummy":
        return
    cache = _cache(config)
    folder = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < facts.missing_bytes:
        raise ClusterError(
            f"{config.model_id} is a download of {facts.missing_bytes / GIB:.1f} GiB, but {folder} has "
            f"{free / GIB:.1f} GiB free. Make room, or set HF_HOME to a larger disk."
        )


def kv_values_per_token(config: dict[str, Any]) -> int:
    """Numbers in the KV cache a token, over all layers; 0 where it is not known."""
    config = text_config(config)
    windows = config.get("sliding_window") and config.get("use_sliding_window", True)
    mixed = any(kind != "full_attention" for kind in config.get("layer_types") or [])
    sizes: list[Any] = [config.get(key) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size")]
    known = all(isinstance(number, int) and number > 0 for number in sizes)
    if config.get("model_type") not in PLAIN_ATTENTION or windows or mixed or not known:
        return 0
    layers, heads, hidden = sizes
    return 2 * layers * (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads)


def longest(config: EngineConfig, facts: ModelFacts) -> Optional[int]:
    """Tokens of the longest request, prompt and answer together, as far as is known before the engine resolves it."""
    given, model = config.engine_kwargs.get("max_model_len"), facts.config
    if given is not None or not config.engine_kind.needs_model:
        return given if isinstance(given, int) and given > 0 else None
    rope = model.get("rope_scaling") or model.get("rope_parameters") or {}
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    length = model.get("max_position_embeddings")
    return length if model.get("model_type") in PLAIN_ATTENTION and not scaled and isinstance(length, int) else None


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config.json, which models that see or hear have beside others."""
    return config.get("text_config") or config


def _kv_bytes(kwargs: dict[str, Any]) -> int:
    """Bytes a number in the KV cache; 0 for formats that are newer than this file."""
    given = str(kwargs.get("kv_cache_dtype") or "auto")
    if given.startswith("fp8"):
        return 1
    return BYTES.get(str(kwargs.get("dtype")), 2) if given == "auto" else BYTES.get(given, 0)


def _shrink(kwargs: dict[str, Any], config: dict[str, Any]) -> float:
    """What of the weights' size on disk is left in the GPU: vLLM loads 32-bit ones as 16-bit, and quantizes on request.

    Embeddings are not quantized and some formats take less than this says, so it is a little low, on purpose.
    """
    if config.get("quantization_config"):
        return 1.0
    text, keys = text_config(config), ("dtype", "torch_dtype")
    saved = next((part[key] for part in (text, config) for key in keys if part.get(key)), "float32")
    ratio = BYTES.get(str(kwargs.get("dtype")), 2) / BYTES.get(str(saved), 2)
    quantization = kwargs.get("quantization")
    return ratio if quantization is None else ratio * (0.5 if "fp8" in quantization or "int8" in quantization else 0.25)


def _cache(config: EngineConfig) -> Path:
    """Where the engine's process will look for the model: the config's environment goes over this process's own."""
    from huggingface_hub import constants

    env = config.env_vars
    if cache := env.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    return Path(env["HF_HOME"]).expanduser() / "hub" if env.get("HF_HOME") else Path(constants.HF_HUB_CACHE)


def _of_folder(folder: Path, load_format: str) -> ModelFacts:
    names = _names(folder)
    weights = sum((folder / name).stat().st_size for name in _weights(names, load_format, folder))
    tokenizer, config = read_object(folder / "tokenizer_config.json"), _sound(read_object(folder / "config.json"))
    template = bool(tokenizer.get("chat_template")) or any(name.startswith("chat_template") for name in names)
    unclear = not template and (any("tekken" in name for name in names) or "tokenizer_config.json" not in names)
    return ModelFacts(config, weights or None, None if unclear else template, folder=folder)


def _sound(config: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that hold something odd; check_files tells of them."""
    sound = {name: value for name, value in config.items() if name not in set(odd_fields(config))}
    return {**sound, "text_config": _sound(sound["text_config"])} if sound.get("text_config") else sound


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


def _weights(names: list[str], load_format: str, folder: Path) -> list[str]:
    """Those that the engine loads. Of safetensors kept twice, sharded and whole, these are the ones in the index."""
    skip = files_to_skip(names, load_format)
    kept = [name for name in names if "/" not in name and not any(fnmatch(name, pattern) for pattern in skip)]
    weights = [name for name in kept if any(fnmatch(name, pattern) for pattern in WEIGHTS) and name not in NO_WEIGHTS]
    if any(name.endswith(".gguf") for name in weights):
        return []
    indexed = shards_in(read_object(folder / INDEX))
    return sorted(indexed) if indexed and indexed <= set(weights) else weights
