"""What generates: the only room that knows vLLM. README.md here says how another engine is added."""

from rayllm_batch.engine.base import EngineKind
from rayllm_batch.registry import Registry

ENGINES: Registry[EngineKind] = Registry(
    "llm_engine",
    {
        "vllm": "rayllm_batch.engine.vllm:VLLM",
        "openai": "rayllm_batch.engine.openai:OpenAI",
        "echo": "rayllm_batch.engine.echo:Echo",
    },
)
