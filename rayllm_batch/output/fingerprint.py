"""Whose answers are in a folder: what decides them and is plain data, what hints at other questions, which rows.

Nothing that only decides how fast they come is in any of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.config import EngineConfig
from rayllm_batch.data.dataset_file import find_files
from rayllm_batch.output.code_text import as_text, code_of_class, digest, home_of, is_of_a_package, opaque
from rayllm_batch.workload.own_file import own_file

# Of vLLM's settings those that decide where and how fast the work is done, or how long a prompt may be; any other
# counts as deciding answers. The tests have these, and all others of the vLLMs that were tried, so that a new one has
# to be sorted. The last two lines are of earlier releases, and of echo.
HOW_FAST = set(
    """
    aggregate_engine_logging all2all_backend async_scheduling attention_backend block_size collect_detailed_traces
    compilation_config cp_kv_cache_interleave_size cpu_distributed_timeout_seconds cpu_offload_gb cpu_offload_params
    cudagraph_capture_sizes cudagraph_metrics custom_histogram_buckets data_parallel_address data_parallel_backend
    data_parallel_external_lb data_parallel_hybrid_lb data_parallel_multi_port_external_lb data_parallel_rank
    data_parallel_rpc_port data_parallel_size data_parallel_size_local data_parallel_start_rank
    dbo_decode_token_threshold dbo_prefill_token_threshold dcp_comm_backend dcp_kv_cache_interleave_size dcp_q_replicate
    decode_context_parallel_size device_ids disable_cascade_attn disable_chunked_mm_input disable_custom_all_reduce
    disable_hybrid_kv_cache_manager disable_log_stats disable_nccl_for_dp_synchronization distributed_executor_backend
    distributed_timeout_seconds download_dir dp_sync_interval ec_manager_config ec_transfer_config
    elastic_ep_max_dp_size enable_batch_sharded_sampling enable_chunked_prefill enable_cumem_allocator enable_dbo
    enable_elastic_ep enable_ep_weight_filter enable_eplb enable_expert_parallel enable_fault_tolerance
    enable_flashinfer_autotune enable_hc_sp enable_layerwise_nvtx_tracing enable_log_requests
    enable_logging_iteration_details enable_lora enable_mamba_shared_prefix_checkpoint enable_mfu_metrics
    enable_mm_processor_stats enable_moe_shared_loras enable_nccl_comm_suspend enable_prefix_caching
    enable_shm_tensor_arena enable_sleep_mode enable_trace_replay enforce_eager engram_config eplb_config
    expert_placement_strategy fail_on_environ_validation fault_tolerance_config fully_sharded_loras gdn_prefill_backend
    gpu_memory_utilization hf_token ignore_patterns ir_op_priority jit_monitor_mode jit_monitor_verbose
    kda_decode_backend kda_prefill_backend kernel_config kv_cache_memory_bytes kv_cache_metrics kv_cache_metrics_sample
    kv_events_config kv_offloading_backend kv_offloading_size kv_transfer_config linear_backend log_config_file
    log_level logging_config long_prefill_token_threshold long_prefill_token_threshold_adaptive mamba_backend
    mamba_block_size mamba_cache_mode master_addr master_port max_cpu_loras max_cudagraph_capture_size max_logprobs
    max_lora_cls_labels max_lora_rank max_loras max_model_len max_num_active_seqs max_num_batched_tokens
    max_num_queued_reqs max_num_queued_tokens max_num_scheduled_tokens max_num_seqs max_parallel_loading_workers
    mm_encoder_attn_backend mm_encoder_tp_mode mm_hasher_algorithm mm_ipc_gpu_memory_gb mm_processor_cache_gb
    mm_processor_cache_type mm_processor_device mm_shm_cache_max_object_size_mb mm_tensor_ipc moe_backend nnodes
    node_rank num_gpu_blocks_override numa_bind numa_bind_cpus numa_bind_nodes offload_backend offload_group_size
    offload_num_in_group offload_params offload_prefetch_step optimization_level otlp_traces_endpoint
    per_request_spec_decode_metrics performance_mode pipeline_parallel_size prefill_context_parallel_size
    prefill_schedule_interval prefix_cache_retention_interval prefix_caching_hash_algo prefix_match_unit profiler_config
    pt_load_map_location ray_workers_use_nsight renderer_num_workers replayssm_buffer_len safetensors_load_strategy
    safetensors_prefetch_block_size safetensors_prefetch_num_threads scheduler_cls scheduler_reserve_full_isl
    scheduling_policy served_model_name show_hidden_metrics_for_version shutdown_timeout skip_mm_profiling
    sleep_mode_offload_cudagraph sleep_preserve_parameter_names sparse_indexer_topk_backend spec_method spec_model
    spec_tokens specialize_active_lora speculative_config stream_interval tensor_parallel_size ubatch_size use_replayssm
    use_tqdm_on_load watermark weight_transfer_config
    cuda_graph_sizes swap_space
    start_seconds seconds_per_request crash_on fail_on start_error oom_above run_oom_above calls_file
""".split()
)
# Fields of a workload that show in its rows, which have ids, or in their errors.
HOW_READ = {"bad_lines", "dataset_encoding", "media_hosts", "media_timeout_s"}
HOW_READ |= {"max_media_bytes", "max_media_pixels", "max_media_seconds"}
WHICH_ROWS = {"dataset_file", "dataset_fraction"}  # fields too; see Job.rows
FILES = "files of dataset_file"
SECRET = re.compile(
    r"\btoken\b|_token\b|hf_\w{20}|secret|passw|\bpwd\b|credential|authorization|bearer|(api|access|private)_?key"
    r"|[?&]sig=|//[^/\s]+:[^/\s]+@",
    re.IGNORECASE,
)
SHOWN_LENGTH = 200
SAMPLE_BYTES = 64 << 10  # read at three places of each file of a local model


@dataclasses.dataclass(frozen=True)
class Job:
    """Each part as text that can stand in a file: no environment, no secret.

    settings: what decides answers and can be compared; a folder holds those of one.
    hints:    code and the workload's fields. Where they differ, other things may be asked of the model, or the same.
    rows:     where the rows come from: the same files, as far as names, sizes and times say, have the same rows. Empty
              where that is the business of a load_dataset of the user's.
    adapters: LoRA adapters of a local folder by what is in their files. Others may come beside them, and some may go.
    """

    settings: dict[str, str]
    hints: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: dict[str, str] = dataclasses.field(default_factory=dict)
    adapters: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def code(self) -> str:
        """Of the hints: another one where they are others."""
        return digest(json.dumps(self.hints, sort_keys=True))

    @property
    def fingerprint(self) -> str:
        return digest(json.dumps(self.settings, sort_keys=True))

    @classmethod
    def of_format_1(cls, parts: dict[str, str]) -> Job:
        """Of a manifest that had all in one. What decides speed, and was not known to, is left out."""
        left_out = {
            *(f"engine_kwargs.{name}" for name in HOW_FAST),
            *(f"workload.{name}" for name in WHICH_ROWS),
            FILES,
        }
        job = cls({})
        for key in [key for key in parts if key not in left_out]:
            is_hint = key.startswith(("workload", "code of ")) and key != "workload.sampling_params"
            (job.hints if is_hint else job.settings)[key] = parts[key]
        return job


def describe_job(config: EngineConfig, workload: Any, id_column: Optional[str]) -> Job:
    settings = {
        "model_id": config.model_id if config.engine_kind.tokenizes else _model(config.model_id),
        "llm_engine": config.llm_engine,
        "chat_template": digest(config.chat_template) if config.chat_template else "the model's own",
        "chat_template_kwargs": as_text(config.chat_template_kwargs),
        "dynamic_lora_loading_path": _shown("path", config.dynamic_lora_loading_path),
        "id_column": as_text(id_column),
    }
    if config.task != "generate":  # what folders of before there were others hold
        settings["task"] = config.task
    if config.batch_invariant:
        settings["batch_invariant"] = "true"
    for key, value in sorted(config.engine_kwargs.items()):
        if key not in HOW_FAST and key not in config.engine_kind.how_fast:
            settings[f"engine_kwargs.{key}"] = _shown(key, value)
    if config.engine_kwargs.get("reasoning_parser"):  # before it had a column, the thoughts were in generated_text
        settings["thoughts"] = "a column of their own"
    hints, rows = {"workload": type(workload).__qualname__}, dict[str, str]()
    for key, value in config.task_kind.decides(workload).items():
        settings[f"workload.{key}"] = _shown(key, value)
    for key, value in sorted(_fields(workload).items()):
        if key == "media_folder" and value is None:  # as in folders of before it was there
            continue
        if key not in config.task_kind.fields:
            (rows if key in WHICH_ROWS else hints)[f"workload.{key}"] = _shown(key, value)
        elif isinstance(value, type):
            hints[f"code of {key}"] = digest(code_of_class(value, home_of(workload)))
    for cls in type(workload).__mro__:
        if cls.__module__ != "rayllm_batch.workload.base" and cls.__module__ not in sys.stdlib_module_names:
            key = f"code of {cls.__qualname__}"  # a subclass may have its base's name
            hints[key] = digest(hints.get(key, "") + code_of_class(cls, home_of(workload)))
    dataset_file, loads = getattr(workload, "dataset_file", None), getattr(type(workload), "load_dataset", None)
    is_ours = getattr(loads, "__module__", "").startswith("rayllm_batch.")
    rows = {**rows, FILES: _files(dataset_file, own_file(workload))} if dataset_file and is_ours else {}
    return Job(settings, hints, rows, _adapters(config.dynamic_lora_loading_path))


def differences(earlier: dict[str, str], now: dict[str, str]) -> list[str]:
    """`workload.dataset_fraction was 8, is 16`, one a part that differs."""
    return [
        f"{key} was {earlier.get(key, 'not set')}, is {now.get(key, 'not set')}"
        for key in sorted({*earlier, *now})
        if earlier.get(key) != now.get(key)
    ]


def _fields(workload: Any) -> dict[str, Any]:
    """Those of the dataclass, and what else it has: not what has no state, or is a package's, such as a Dataset."""
    fields = {field.name for field in dataclasses.fields(workload)} if dataclasses.is_dataclass(workload) else set()
    home, found = home_of(workload), {}
    for name in {*fields, *getattr(workload, "__dict__", {})} - HOW_READ:
        if hasattr(workload, name):
            value = getattr(workload, name)
            if name in fields or not (is_of_a_package(value, home) or as_text(value) == as_text(opaque(value))):
                found[name] = value
    return found


def _model(model_id: str) -> str:
    """A Hub id; a local folder by its files, wherever it lies."""
    folder = Path(model_id)
    if not folder.is_dir():
        return f"({digest(model_id)[:12]})" if SECRET.search(model_id) else model_id
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return f"{folder.name} ({digest(json.dumps([(path.name, _sample(path)) for path in files]))[:12]})"


def _adapters(root: Optional[str]) -> dict[str, str]:
    """Of a local folder; what lies behind a URI would have to be downloaded."""
    if root is None or "://" in root:
        return {}
    folder = Path(root).expanduser()
    found = sorted(file.parent for file in folder.rglob("adapter_config.json"))
    return {str(its.relative_to(folder)): _model(str(its)).rpartition(" ")[2] for its in found}


def _sample(path: Path) -> str:
    """Weights that are trained again have the same size, and other numbers all over; reading all takes minutes."""
    size = path.stat().st_size
    pieces = []
    with open(path, "rb") as file:
        for start in sorted({0, max(0, size // 2), max(0, size - SAMPLE_BYTES)}):
            file.seek(start)
            pieces.append(file.read(SAMPLE_BYTES))
    return f"{size} {hashlib.sha256(b''.join(pieces)).hexdigest()}"


def _files(dataset_file: str, beside: Optional[str]) -> str:
    """Names, sizes and times. A copy has other times, and is then read to see that it has the same rows."""
    files = find_files(dataset_file, beside)
    infos = files.fs.get_file_info(files.paths)
    listed = digest(json.dumps(sorted((info.base_name, info.size, info.mtime_ns) for info in infos)))
    return f"{len(infos)} file(s), {sum(info.size for info in infos):,} bytes, {listed[:12]}"


def _shown(name: str, value: Any) -> str:
    """The value, or its digest where it is long, or may be a secret."""
    text = as_text(value)
    may_be_secret = SECRET.search(f"{name} {text}") and value is not None and not isinstance(value, (bool, int, float))
    if len(text) > SHOWN_LENGTH or may_be_secret:
        return f"({digest(text)[:12]})"
    return text
