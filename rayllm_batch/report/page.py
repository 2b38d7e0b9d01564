"""The report as one HTML page: no script, nothing from the network, light or dark as the browser is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import metadata
from typing import Any, Optional, Union

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.vllm_versions import vllm_version
from rayllm_batch.errors import RayLLMBatchError
from rayllm_batch.measures.failures import stage_of
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics, row_stats
from rayllm_batch.measures.row_stats import RowStats
from rayllm_batch.measures.snapshot import ReplicaState
from rayllm_batch.output.code_text import as_text
from rayllm_batch.output.fingerprint import SECRET
from rayllm_batch.report import plots
from rayllm_batch.report.html_file import rendered, save
from rayllm_batch.report.verdict import verdict
from rayllm_batch.secret import Secret

SHOWN_CHARACTERS = 300
Table = list[tuple[str, str]]


def show_and_save(
    path: Union[str, os.PathLike],
    config: EngineConfig,
    workload: Any,
    *,
    run: Mapping[str, Any],
    metrics: Optional[RunMetrics],
    history: History,
    replicas: dict[str, ReplicaState],
) -> str:
    """Write the report's file and show it; returns the file's whole path.

    run: other settings by name. replicas: what the monitor knew of each in the end.
    Raises RayLLMBatchError before a run, and when the file cannot be written.
    """
    if metrics is None:
        raise RayLLMBatchError("There is no run to report on yet: call run() first.")
    title = os.path.basename(config.model_id) if os.path.isabs(config.model_id) else config.model_id
    settings = _settings(config, workload, run, replicas)
    engines = "GPUs" if config.gpus_per_replica else "engines"
    stats = row_stats(replicas)
    at_once = config.engine_kind.at_once_setting
    content = page(
        title, metrics=metrics, history=history, stats=stats, settings=settings, engines=engines, at_once=at_once
    )
    return save(content, path, "report")


def page(
    title: str,
    *,
    metrics: RunMetrics,
    history: History,
    stats: RowStats,
    settings: dict[str, Table],
    engines: str,
    at_once: str = "max_num_seqs",
) -> str:
    """From the template beside this file. settings: tables by their headings. engines, at_once: see `verdict`."""
    return rendered(
        "page.html",
        title=title,
        metrics=metrics,
        stats=stats,
        settings=settings,
        stage_of=stage_of,
        began=time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(history.began)),
        verdict=verdict(metrics, history, engines, at_once),
        failed=", ".join(f"{rows:,} {stage}" for stage, rows in metrics.failed_by_kind.items()),
        timeline=plots.timeline(history, at_once),
        lengths=plots.lengths(stats.input_lengths, stats.output_lengths if metrics.num_generated_tokens else None),
    )


def _settings(
    config: EngineConfig, workload: Any, run: Mapping[str, Any], replicas: dict[str, ReplicaState]
) -> dict[str, Table]:
    resolved = next((replica.settings for replica in replicas.values() if replica.settings), {})
    names = ("model_id", "llm_engine", "accelerator_type", *(("task",) if config.task != "generate" else ()))
    template = config.chat_template and f"given, {len(config.chat_template):,} characters"
    return {
        "Engine settings, as the engine resolved them": _table(resolved),
        "Pooling parameters" if config.task_kind.pools else "Sampling parameters": _table(
            getattr(workload, config.task_kind.settings_key, None) or {}
        ),
        "Workload": [("class", type(workload).__qualname__), *_table(_fields(workload))],
        "Run": _table(run),
        "Config": [
            *_table({name: getattr(config, name) for name in names}),
            *((f"engine_kwargs.{name}", value) for name, value in _table(config.engine_kwargs)),
            *((f"env_vars.{name}", "(not shown)") for name in config.env_vars),
            *_table({"lora_config.dynamic_lora_loading_path": config.dynamic_lora_loading_path}),
            *_table({"chat_template": template, "chat_template_kwargs": config.chat_template_kwargs or None}),
        ],
        "Versions": _table(_versions()),
    }


def _versions() -> dict[str, str]:
    """Of what decides answers and speed, on the driver's node; none of it is imported."""
    found = {"Python": platform.python_version(), "vLLM": vllm_version()}
    for name in ("rayllm-batch", "ray", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            pass
    return {**found, "system": f"{platform.system()} {platform.release()} {platform.machine()}"}


def _fields(workload: Any) -> dict[str, Any]:
    names = [field.name for field in fields(workload)] if is_dataclass(workload) else []
    names += [name for name in getattr(workload, "__dict__", {}) if name not in names and not name.startswith("_")]
    return {name: getattr(workload, name, None) for name in names if name not in ("sampling_params", "pooling_params")}


def _table(values: Mapping[str, Any]) -> Table:
    return [(str(name), shown(str(name), value)) for name, value in values.items() if value is not None and value != ""]


def shown(name: str, value: Any) -> str:
    """A setting's value as text, shortened; what may be a secret is not shown, nor what is no plain value."""
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, Secret):
        return "(not shown: it may hold a secret)"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, (str, Mapping, list, tuple, set)):
        return f"a {type(value).__name__}"
    text = value if isinstance(value, str) else as_text(value)
    if SECRET.search(f"{name} {text}"):
        return "(not shown: it may hold a secret)"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]} ..."
