"""The engine configuration: what a YAML may say, checked; 2024's names translated."""

from rayllm_batch.config.engine_config import EngineConfig, EnvVars, init_engine_from_config

__all__ = ["EngineConfig", "EnvVars", "init_engine_from_config"]
