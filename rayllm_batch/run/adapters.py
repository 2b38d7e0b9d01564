"""LoRA adapters before an engine starts: whether those that rows ask for can be loaded, and room for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, Union

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine import lora
from rayllm_batch.errors import ConfigError, HubUnavailableError
from rayllm_batch.run.model_check import GIB, GPU_MEMORY_GIB, PLAIN_ATTENTION, ModelFacts, text_config

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes for max_lora_rank (its config/lora.py)
# An engine computes requests of max_loras adapters at once; those of others wait until one has none left. vLLM's own is
# 1, with which few rows of each adapter run beside each other. A place takes GPU memory, for an adapter of the largest
# rank: 0.16 GiB for Llama 3.1 8B at rank 32.
MOST_AT_ONCE, MEMORY_SHARE = 16, 0.05
MOST_IN_MEMORY = 64  # of the host: others are read of the disk again
MOST_LOOKED_AT, READ_AT_ONCE = 256, 16

Found = Mapping[str, Union[int, str, None]]  # of each adapter its rank, or what is wrong with it; None: not known
NO_ADAPTERS: Found = {}


def look_at_adapters(
    config: EngineConfig, chats: Sequence[Mapping[str, Any]], token: str, hidden_size: Optional[int] = None
) -> Found:
    """Those that the first rows ask for, and others of the same place, which further rows may ask for.

    hidden_size: of the base model, if known.

    Raises ConfigError where max_lora_rank is set, and too small for one that the first rows ask for.
    """
    root, given = config.dynamic_lora_loading_path, config.engine_kwargs.get("max_lora_rank")
    asked = list(dict.fromkeys(chat["model"] for chat in chats if chat.get("model")))
    try:
        others = lora.names_in(root) if root else []
    except OSError:  # what is wrong with the place is told by those that are asked for
        others = []
    names = list(dict.fromkeys([*asked, *others]))[:MOST_LOOKED_AT]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:  # each is a request, where they are behind a URI
        found = dict(zip(names, pool.map(lambda name: _rank(name, root, token, hidden_size), names), strict=True))
    for name, rank in found.items():
        if not isinstance(rank, int):
            continue
        if name in asked and isinstance(given, int) and rank > given:
            wide = _place_for(rank)
            instead = f"Set it to {wide}, or leave it out" if wide else f"vLLM takes none above {RANKS[-1]}"
            raise ConfigError(f"max_lora_rank is {given}, but the LoRA adapter {name!r} has rank {rank}. {instead}.")
        if _place_for(rank) is None:
            found[name] = f"the LoRA adapter {name!r} has rank {rank}, and vLLM takes none above {RANKS[-1]}"
    return found


def _rank(name: str, root: Optional[str], token: str, hidden_size: Optional[int]) -> Union[int, str, None]:
    try:
        rank = lora.rank_of(name, root, token)
        if "://" not in (uri := lora.address(name, root)):  # else its weights would be downloaded for it
            lora.check(name, Path(uri), hidden_size)
        return rank
    except HubUnavailableError:
        return None
    except ValueError as error:
        return str(error)


def with_places(config: EngineConfig, facts: ModelFacts, found: Found) -> tuple[EngineConfig, Optional[str], float]:
    """The config with places for these adapters, where the user has set none; what was chosen; adapters a place."""
    ranks = [rank for rank in found.values() if isinstance(rank, int)]
    kwargs = config.engine_kwargs
    if not ranks or not kwargs.get("enable_lora"):
        return config, None, 1.0
    chosen: dict[str, Any] = {}
    if kwargs.get("max_lora_rank") is None:
        chosen["max_lora_rank"] = _place_for(max(ranks))
    if kwargs.get("max_loras") is None:
        chosen["max_loras"] = min(len(ranks), _most_at_once(config, facts, chosen.get("max_lora_rank", max(ranks))))
    at_once = int(kwargs.get("max_loras") or chosen["max_loras"])
    if kwargs.get("max_cpu_loras") is None and len(ranks) > at_once:
        chosen["max_cpu_loras"] = max(at_once, min(len(ranks), MOST_IN_MEMORY))
    settings = ", ".join(f"{name}={value}" for name, value in chosen.items())
    why = f"{settings}, for {len(ranks)} LoRA adapter(s)" if chosen else None
    return dataclasses.replace(config, engine_kwargs={**kwargs, **chosen}), why, len(ranks) / at_once


def _place_for(rank: int) -> Optional[int]:
    return next((width for width in RANKS if width >= rank), None)


def _most_at_once(config: EngineConfig, facts: ModelFacts, rank: int) -> int:
    if not config.gpus_per_replica:
        return MOST_AT_ONCE
    memory, place = GPU_MEMORY_GIB.get(config.accelerator_type), _bytes_a_place(facts.config, rank)
    return max(1, min(MOST_AT_ONCE, int(memory * GIB * MEMORY_SHARE / place))) if memory and place else 1


def _bytes_a_place(config: dict[str, Any], rank: int) -> int:
    """Of a 16-bit adapter of all linear layers; 0 where it is not known, as for a mixture of experts."""
    config = text_config(config)
    names = "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"
    sizes: list[Any] = [config.get(name) for name in names]
    experts = any("experts" in key for key in config)
    if config.get("model_type") not in PLAIN_ATTENTION or experts or not all(isinstance(size, int) for size in sizes):
        return 0
    layers, heads, hidden, inner = sizes
    head = config.get("head_dim") or hidden // heads
    query, key = heads * head, (config.get("num_key_value_heads") or heads) * head
    inputs_and_outputs = 2 * (hidden + query) + 2 * (hidden + key) + 3 * (hidden + inner)
    return 2 * layers * rank * inputs_and_outputs
