"""An engine of one file, by the recipe in rayllm_batch/engine/README.md: it says what it hears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from rayllm_batch.engine.base import BadRequest, EngineKind, Reply, Request, Starter


class ParrotEngine:
    max_model_len, vocab_size = 4096, None

    def __init__(self, engine_kwargs: dict[str, Any], tokenizer: Any) -> None:
        self._word, self._tokenizer, self._said = engine_kwargs.get("word", "squawk"), tokenizer, 0

    async def generate(self, request: Request) -> Reply:
        heard = self._tokenizer.decode(request.prompt_token_ids, skip_special_tokens=True)
        if "cat" in heard:
            raise BadRequest("it hides from cats")
        self._said += len(request.prompt_token_ids)
        return Reply(f"{self._word}! {heard}", len(request.prompt_token_ids), "stop")

    def limits(self) -> dict[str, Any]:
        return {"max_num_seqs": 16, "max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.9}

    def settings(self) -> dict[str, Any]:
        return {"max_model_len": self.max_model_len, "max_num_seqs": 16, "max_num_batched_tokens": 4096}

    def load(self) -> dict[str, float]:
        return {"running": 0, "waiting": 0, "kv_cache_usage": 0.0, "generation_tokens": self._said}

    def is_deaf(self) -> bool:
        return False

    def shutdown(self) -> None:
        pass


class ParrotStarter(Starter):
    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Callable[[], Any]) -> ParrotEngine:
        return ParrotEngine(engine_kwargs, decoder())


class Parrot(EngineKind):
    needs_model = False
    needs_gpus = False
    own_settings = ("word",)

    def starter(
        self, engine_kwargs: Mapping[str, Any], accelerator_type: str, gpus: float, lora_path: Optional[str]
    ) -> ParrotStarter:
        return ParrotStarter()
