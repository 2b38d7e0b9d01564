"""The report as one HTML page: no script, nothing from the network, light or dark as the browser is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from typing import Any, Optional

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.vllm_versions import vllm_version
from rayllm_batch.measures.failures import by_stage, stage_of
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics, row_stats
from rayllm_batch.measures.row_stats import RowStats
from rayllm_batch.measures.snapshot import ReplicaState
from rayllm_batch.output.code_text import as_text
from rayllm_batch.output.fingerprint import SECRET
from rayllm_batch.report import plots
from rayllm_batch.report.html_file import rendered
from rayllm_batch.report.run_report import RunReport, Table
from rayllm_batch.report.verdict import verdict
from rayllm_batch.secret import Secret

SHOWN_CHARACTERS = 300


@dataclass
class FolderFigures:
    """What the page says of the folder. given: its path. state: "complete" or "unfinished", and when it was written.

    stats: of all its rows; None where these are the last run's, and so the page's own.
    left_out: what is not in the folder, in words. this_run: likewise, what the run did that has just ended; "" where
    there is none, or it answered all rows. is_this_run: whether the run that the page tells of is that one.
    """

    given: str
    rows: int
    failed: int
    state: str
    stats: Optional[RowStats]
    left_out: str = ""
    this_run: str = ""
    is_this_run: bool = False


def run_report(
    config: EngineConfig,
    workload: Any,
    *,
    run: Mapping[str, Any],
    metrics: RunMetrics,
    history: History,
    replicas: dict[str, ReplicaState],
) -> RunReport:
    """What the page says of a run. run: other settings by name. replicas: what the monitor knew of each in the end."""
    return RunReport(
        title=os.path.basename(config.model_id) if os.path.isabs(config.model_id) else config.model_id,
        metrics=metrics,
        history=history,
        stats=row_stats(replicas),
        settings=_settings(config, workload, run, replicas),
        engines="GPUs" if config.gpus_per_replica else "engines",
        at_once=config.engine_kind.at_once_setting,
    )


def page(
    title: str,
    *,
    metrics: RunMetrics,
    history: History,
    stats: RowStats,
    settings: dict[str, Table],
    engines: str,
    at_once: str = "max_num_seqs",
    folder: Optional[FolderFigures] = None,
) -> str:
    """From the template beside this file. settings: tables by their headings. engines, at_once: see `verdict`.

    folder: the page is an output folder's, and this its last run.
    """
    all_rows = folder.stats if folder else None
    with_answers = metrics.num_generated_tokens or (all_rows is not None and all_rows.counts.output_tokens)
    shown_stats = all_rows or stats
    return rendered(
        "page.html",
        title=title,
        metrics=metrics,
        stats=stats,
        settings=settings,
        stage_of=stage_of,
        by_stage=by_stage,
        folder=folder,
        began=time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(history.began))
        if history.began or not folder
        else "",
        verdict=verdict(metrics, history, engines, at_once),
        failed=", ".join(f"{rows:,} {stage}" for stage, rows in metrics.failed_by_kind.items()),
        timeline=plots.timeline(history, at_once),
        with_answers=with_answers,
        lengths=plots.lengths(shown_stats.input_lengths, shown_stats.output_lengths if with_answers else None),
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
