"""Which of vLLM's grammar backends compiles what is asked for: one engine process has one, for all its requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from rayllm_batch.engine import vllm_versions

# What "auto" tries, in its order. It chooses by the first request alone; what that backend cannot do fails in the
# engine.
BACKENDS = ("xgrammar", "guidance")


def choose_backend(asked: Sequence[Mapping[str, Any]], given: Optional[str]) -> tuple[str, list[str]]:
    """Called where vLLM is. asked: values of structured_outputs. given: the config's backend, if it has one.

    The backend that can do the most of them, and of each why it cannot: "" where it can.
    """
    backends = BACKENDS if given in (None, "auto") else (given,)
    tried = [(backend, [_refusal(backend, one) for one in asked]) for backend in backends]
    return min(tried, key=lambda one: sum(map(bool, one[1])))


def _refusal(backend: str, asked: Mapping[str, Any]) -> str:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    try:
        params = SamplingParams(structured_outputs=StructuredOutputsParams(**asked))
        if backend == "xgrammar":
            vllm_versions.part("validate_xgrammar_grammar")(params)
        elif backend == "guidance":
            schema = asked.get("json")
            if isinstance(schema, dict) and vllm_versions.part("has_guidance_unsupported_json_features")(schema):
                return "it has features that guidance does not have"
            vllm_versions.part("validate_guidance_grammar")(params, tokenizer=None)
    except Exception as problem:
        return " ".join(str(problem).split())
    return ""
