"""Whether the engine can keep to the forms that answers must have, asked of vLLM itself before an engine starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from rayllm_batch.cluster.versions import engine_nodes
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.structured_backend import BACKENDS, choose_backend
from rayllm_batch.errors import ConfigError, WorkloadError, shown
from rayllm_batch.tasks.base import Task

KEY = "structured_outputs"


def with_backend(config: EngineConfig, task: Task, chats: Sequence[Mapping[str, Any]]) -> EngineConfig:
    """The config with the grammar backend that can do what the workload and its first rows ask for.

    Left as it is where nothing is asked for; what a rollout asks for is not known before. Raises WorkloadError, with
    vLLM's reason, where none can, and ConfigError where the config's choice is none.
    """
    own = [(chat.get(task.settings_key) or {}).get(KEY) for chat in chats]
    forced = (chat["tools"] for chat in chats if chat.get("tool_choice") not in (None, "none"))
    own += [{"json": tool["function"].get("parameters") or {}} for tools in forced for tool in tools]
    asked = {json.dumps(form, sort_keys=True): form for form in (task.settings.get(KEY), *own) if form}
    if not config.engine_kind.needs_vllm or not (asked or task.compact_json):
        return config
    asked_for = config.engine_kwargs.get("structured_outputs_config") or {}
    if not isinstance(asked_for, Mapping) or not isinstance(asked_for.get("backend", ""), (str, type(None))):
        wanted = "a dict such as {'backend': 'xgrammar'}"
        raise ConfigError(f"structured_outputs_config in engine_kwargs must be {wanted}, given {shown(asked_for)}.")
    given = dict(asked_for)
    backend = _backend(config, task, asked, given.get("backend"))
    if task.compact_json and backend in BACKENDS:  # small models else print spaces to their limit
        given.setdefault("disable_any_whitespace", True)
    kwargs = {**config.engine_kwargs, "structured_outputs_config": {**given, "backend": backend}}
    return dataclasses.replace(config, engine_kwargs=kwargs)


def _backend(config: EngineConfig, task: Task, asked: Mapping[str, Any], given: Optional[str]) -> str:
    """asked: forms by their JSON. given: the config's."""
    if not asked:  # a rollout's are not known; "auto" cannot be told to leave whitespace out
        return BACKENDS[0] if given in (None, "auto") else given
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(next(iter(engine_nodes(config))), soft=False)  # it has vLLM; others need not
    ask = ray.remote(num_cpus=0, scheduling_strategy=node)(choose_backend)
    backend, problems = ray.get(ask.remote(list(asked.values()), given))
    for form, problem in zip(asked, problems, strict=True):
        if problem and asked[form] == task.settings.get(KEY):  # one of a row's own is that row's error
            tried = given or " and ".join(BACKENDS)
            raise WorkloadError(
                f"No answer can be held to this form: {form[:300]}. vLLM's grammar backend ({tried}) says: "
                f"{problem[:500]}. Leave that part out of the schema; a pydantic model may check it with a validator "
                "instead."
            )
    return backend
