"""Offline LLM inference over a table of prompts: Ray Data moves the rows, vLLM generates."""

from rayllm_batch._version import __version__ as __version__
from rayllm_batch.batch import RayLLMBatch
from rayllm_batch.config import EngineConfig, init_engine_from_config
from rayllm_batch.workload import ChatWorkloadBase
from rayllm_batch.workload.cnn_dailymail import CNNDailySummary
from rayllm_batch.workload.openai_batch import OpenAIBatchFile
from rayllm_batch.workload.synthetic import SyntheticWithSharedPrefix

__all__ = [
    "ChatWorkloadBase",
    "CNNDailySummary",
    "EngineConfig",
    "OpenAIBatchFile",
    "RayLLMBatch",
    "SyntheticWithSharedPrefix",
    "init_engine_from_config",
]
