"""Fields that vLLM 0.32.0 has beside those of vllm_fields.py, for where vLLM is not installed.

Written by scripts/update_vllm_fields.py; not edited by hand.
"""

NEWEST_RELEASE = "0.32.0"

MORE_ENGINE_FIELDS = tuple(
    """
    enable_hc_sp sparse_indexer_topk_backend elastic_ep_max_dp_size dp_sync_interval
    long_prefill_token_threshold_adaptive max_num_active_seqs enable_shm_tensor_arena max_lora_cls_labels
    aux_output_config watermark_config custom_histogram_buckets engram_config logging_config log_level log_config_file
    sleep_mode_offload_cudagraph sleep_preserve_parameter_names enable_nccl_comm_suspend
    enable_mamba_shared_prefix_checkpoint swa_bounded_replay kda_decode_backend
""".split()
)

# Of SamplingParams and of what stands in it, with their types.
MORE_SAMPLING_FIELDS: dict[str, str] = {
    "watermarking": "bool | None",
    "prompt_logprob_token_ids": "np.ndarray | None",
    "prompt_logprob_start": "int | None",
}

MORE_REPETITION_FIELDS: dict[str, str] = {}

MORE_STRUCTURED_FIELDS: dict[str, str] = {}
