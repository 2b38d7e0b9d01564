"""What makes a job the same job: everything that decides its answers, and nothing that only decides how fast they come."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.code_text import as_text, canonical, code_of_class, digest, opaque
from rayllm_batch.config import EngineConfig
from rayllm_batch.dataset_file import find_files

# vLLM settings that decide where and how fast the work is done. Any other counts as part of the job.
HOW_FAST = {
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
    "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill",
    "enforce_eager", "compilation_config", "cuda_graph_sizes", "block_size", "swap_space", "cpu_offload_gb",
    "kv_cache_memory_bytes", "num_gpu_blocks_override", "max_parallel_loading_workers", "download_dir", "disable_log_stats",
    "disable_custom_all_reduce", "async_scheduling", "optimization_level", "performance_mode", "scheduling_policy",
    "start_seconds", "seconds_per_request", "crash_on", "fail_on", "start_error", "oom_above", "run_oom_above",
    "calls_file",  # of the echo engine
}  # fmt: skip
HOW_READ = {"bad_lines", "dataset_encoding"}  # fields of a workload that show in its rows, which have ids
SECRET = re.compile(
    r"\btoken\b|_token\b|hf_\w{20}|secret|passw|\bpwd\b|credential|authorization|bearer|(api|access|private)_?key|[?&]sig="
    r"|//[^/\s]+:[^/\s]+@",
    re.IGNORECASE,
)
SHOWN_LENGTH = 200
SAMPLE_BYTES = 64 << 10  # read at three places of each file of a local model


def describe_job(config: EngineConfig, workload: Any, id_column: Optional[str]) -> dict[str, str]:
    """What the job consists of, part by part, as text that can stand in a file: no environment, no secret."""
    job = {
        "model_id": _model(config.model_id),
        "llm_engine": config.llm_engine,
        "chat_template": digest(config.chat_template) if config.chat_template else "the model's own",
        "chat_template_kwargs": as_text(config.chat_template_kwargs),
        "dynamic_lora_loading_path": _shown("path", config.dynamic_lora_loading_path),
        "id_column": as_text(id_column),
    }
    for key, value in sorted(config.engine_kwargs.items()):
        if key not in HOW_FAST:
            job[f"engine_kwargs.{key}"] = _shown(key, value)
    job["workload"] = type(workload).__qualname__
    for key, value in sorted(_fields(workload).items()):
        job[f"workload.{key}"] = _shown(key, value)
    for cls in type(workload).__mro__:
        if cls.__module__ != "rayllm_batch.workload" and cls.__module__ not in sys.stdlib_module_names:
            key = f"code of {cls.__qualname__}"  # a subclass may have its base's name
            job[key] = digest(job.get(key, "") + code_of_class(cls, set()))
    if dataset_file := getattr(workload, "dataset_file", None):
        job["files of dataset_file"] = _files(dataset_file)
    return job


def differences(earlier: dict[str, str], now: dict[str, str]) -> list[str]:
    """`workload.dataset_fraction was 8, is 16`, one a part that differs."""
    return [
        f"{key} was {earlier.get(key, 'not set')}, is {now.get(key, 'not set')}"
        for key in sorted({*earlier, *now})
        if earlier.get(key) != now.get(key)
    ]


def fingerprint(job: dict[str, str]) -> str:
    return digest(json.dumps(job, sort_keys=True))


def _fields(workload: Any) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(workload)} - HOW_READ if dataclasses.is_dataclass(workload) else set()
    values = {name: getattr(workload, name) for name in {*fields, *getattr(workload, "__dict__", {})} - HOW_READ if hasattr(workload, name)}
    # What cannot be told from others of its kind and is no field: something kept from an earlier run, such as a Dataset.
    return {name: value for name, value in values.items() if name in fields or canonical(value, set()) != opaque(value)}


def _model(model_id: str) -> str:
    """A Hub id; a local folder by its files, wherever it lies."""
    folder = Path(model_id)
    if not folder.is_dir():
        return f"({digest(model_id)[:12]})" if SECRET.search(model_id) else model_id
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return f"{folder.name} ({digest(json.dumps([(path.name, _sample(path)) for path in files]))[:12]})"


def _sample(path: Path) -> str:
    """Weights that are trained again have the same size, and other numbers everywhere; reading all of them takes minutes."""
    size = path.stat().st_size
    pieces = []
    with open(path, "rb") as file:
        for start in sorted({0, max(0, size // 2), max(0, size - SAMPLE_BYTES)}):
            file.seek(start)
            pieces.append(file.read(SAMPLE_BYTES))
    return f"{size} {hashlib.sha256(b''.join(pieces)).hexdigest()}"


def _files(dataset_file: str) -> str:
    """Names and sizes. Times of change are left out, a copy has others; changed content shows in the rows' ids."""
    files = find_files(dataset_file)
    if files.filesystem is None:
        sizes = [os.path.getsize(path) for path in files.paths]
    else:
        sizes = [info.size for info in files.filesystem.get_file_info(files.paths)]
    names = [os.path.basename(path) for path in files.paths]
    listed = digest(json.dumps(sorted(zip(names, sizes, strict=True))))
    return f"{len(names)} file(s), {sum(sizes):,} bytes, {listed[:12]}"


def _shown(name: str, value: Any) -> str:
    """The value, or its digest where it is long, or may be a secret."""
    text = as_text(value)
    may_be_secret = SECRET.search(f"{name} {text}") and value is not None and not isinstance(value, (bool, int, float))
    if len(text) > SHOWN_LENGTH or may_be_secret:
        return f"({digest(text)[:12]})"
    return text
