"""vLLM's asynchronous engine. Nothing of vLLM is imported before the engine starts."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, Optional

from rayllm_batch.engine import lora, vllm_media, vllm_pooling, vllm_versions
from rayllm_batch.engine.answer_parser import PARTS, AnswerParser
from rayllm_batch.engine.base import (
    BadRequest,
    EngineDidNotStart,
    EngineDied,
    EngineKind,
    ParsedAnswer,
    Reply,
    Request,
    Starter,
)
from rayllm_batch.engine.deaf import Hearing
from rayllm_batch.engine.forkserver import DID_NOT_SURVIVE, Forkserver
from rayllm_batch.engine.parser_names import PARSERS
from rayllm_batch.errors import one_line

ANSWERED = ("stop", "length", "repetition")  # "abort" and "error" end a request without an answer

ONE_BACKEND = (
    ". It compiles every form with one grammar backend, that of its first: where this one needs another, set "
    "structured_outputs_config={'backend': 'guidance'} in engine_kwargs"
)


class VLLMEngine:
    """One engine. Build it inside a running event loop, with the environment already set."""

    def __init__(
        self,
        model: str,
        engine_kwargs: dict[str, Any],
        accelerator_type: str,
        lora_path: Optional[str],
        forkserver: Optional[Forkserver] = None,
    ) -> None:
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        parsers = {name: engine_kwargs.get(name) for name in PARSERS}
        engine_kwargs = {name: value for name, value in engine_kwargs.items() if name != "tool_parser"}  # of servers
        of_parsers = set() if any(parsers.values()) else PARTS
        vllm_versions.require(*(name for name in vllm_versions.PLACES if name not in of_parsers))
        forms, plugin = engine_kwargs.get("structured_outputs_config"), engine_kwargs.get("reasoning_parser_plugin")
        if isinstance(forms, dict) and (
            parsers["reasoning_parser"] or plugin
        ):  # beside it, vLLM does not take it as a dict
            engine_kwargs["structured_outputs_config"] = vllm_versions.part("StructuredOutputsConfig")(**forms)
        engine_kwargs = vllm_pooling.engine_kwargs(engine_kwargs)
        current_platform = vllm_versions.part("current_platform")
        usage_context = vllm_versions.part("UsageContext").LLM_CLASS
        if current_platform.is_cpu() != (accelerator_type == "CPU"):
            built = "for CPU only" if current_platform.is_cpu() else f"for {current_platform.device_name or 'GPUs'}"
            raise ValueError(
                f"accelerator_type is {accelerator_type}, but the installed vLLM is built {built}. "
                "Choose the matching config, or install the other build of vLLM."
            )
        if forkserver is not None:
            forkserver.serve()
        self._loads: dict[int, dict[str, float]] = {}  # of each data parallel copy
        self._counter = itertools.count()
        self._params: dict[str, Any] = {}
        self._turns = lora.Turns() if current_platform.is_cpu() and lora_path else None
        self._of_logprobs = lora.Turns()
        self._hearing, self._requests = Hearing(), 0
        # max_model_len -1: the model's own, or what the KV cache can hold of it. The async engine's own context halves
        # or quarters the scheduler's limits that LLM() would choose on the same GPU; offline work wants LLM's.
        args = AsyncEngineArgs(model=model, **{"max_model_len": -1, "disable_log_stats": True, **engine_kwargs})
        self._config = args.create_engine_config(usage_context)
        self._parser: Optional[AnswerParser] = None
        if any(parsers.values()):  # before the start, which takes a minute: what is wrong with them is known now
            self._parser = AnswerParser(self._config.model_config, **parsers, plugin=plugin)
        # As LLM() and the server have it, but only where the config asks: a model's file is not what a workload says.
        asked = any(engine_kwargs.get(name) is not None for name in ("generation_config", "override_generation_config"))
        self._defaults = self._config.model_config.get_diff_sampling_param() if asked else {}
        self._own_max_model_len = int(self._config.model_config.max_model_len)  # before it is made to fit
        try:
            # Statistics go to _LoadLogger alone, not to vLLM's own log lines.
            self._engine = AsyncLLMEngine.from_vllm_config(
                self._config,
                usage_context=usage_context,
                disable_log_stats=args.disable_log_stats,
                stat_loggers=[lambda _config, index=0: _load_logger(self._loads.setdefault(index, {}))],
            )
        except Exception as error:
            raise EngineDidNotStart(str(error), self.limits()) from error
        self._media = vllm_media.WithMedia(self._engine)
        model_config = self._config.model_config
        self.max_model_len, self.vocab_size = int(model_config.max_model_len), model_config.get_vocab_size()
        hidden_size = getattr(model_config.hf_text_config, "hidden_size", None)
        self._adapters = lora.Adapters(lora_path, self._add_adapter, hidden_size)

    async def generate(self, request: Request) -> Reply:
        if request.pooling is not None:
            return await vllm_pooling.reply(request, self._pool)
        request_id = str(next(self._counter))
        settings, more = request.settings, dict[str, Any]()
        answer_parser = None if request.raw else self._parser
        if answer_parser is not None:
            try:
                settings, more = answer_parser.prepare(request)
            except Exception as error:
                raise BadRequest(f"the parsers of engine_kwargs: {one_line(error, named=False)}") from None
        params = self._sampling_params(settings)
        prompt: Any = {"prompt_token_ids": request.prompt_token_ids}
        if request.cache_salt:
            prompt["cache_salt"] = request.cache_salt
        async with self._turn_of_logprobs(params):
            ask = partial(self._media.generate, request.media) if request.media else self._engine.generate
            final = await self._last(request.model, partial(ask, prompt, params, request_id, **more))
        outputs = sorted(final.outputs, key=lambda output: output.index)
        for output in outputs:
            if output.finish_reason not in ANSWERED:
                why = f" ({output.stop_reason})" if output.stop_reason else ""
                raise BadRequest(
                    f"the engine ended the request after {len(output.token_ids)} token(s) with finish_reason "
                    f"{output.finish_reason!r}{why}; its log says why{ONE_BACKEND if params.structured_outputs else ''}"
                )
        parsed = tuple[ParsedAnswer, ...]()
        if answer_parser is not None:
            of_each = (answer_parser.parse(request, output.text, output.token_ids) for output in outputs)
            parsed = tuple([await one for one in of_each])
        texts = tuple([one.content or "" for one in parsed] or [output.text for output in outputs])
        several = len(outputs) > 1
        return Reply(
            texts[0],
            sum(len(output.token_ids) for output in outputs),
            outputs[0].finish_reason,
            texts=texts if several else (),
            finish_reasons=tuple(output.finish_reason for output in outputs) if several else (),
            logprobs=None if outputs[0].logprobs is None else [_tokens(output.logprobs) for output in outputs],
            prompt_logprobs=None if final.prompt_logprobs is None else _tokens(final.prompt_logprobs),
            parsed=parsed,
            stop_reasons=tuple(output.stop_reason for output in outputs),
            num_input_tokens=len(final.prompt_token_ids or ()) - request.num_input_tokens if request.media else 0,
        )

    async def _pool(self, model: Optional[str], prompt: Any, params: Any) -> Any:
        """The pooled output of one prompt."""
        return await self._last(model, partial(self._engine.encode, prompt, params, str(next(self._counter))))

    async def _last(self, model: Optional[str], ask: Callable[..., Any]) -> Any:
        """The last of a request's outputs. model: a LoRA adapter's name. ask: begins the request, with the adapter."""
        adapter = await self._adapters.get(model) if model else None
        final = None
        self._requests += 1
        try:
            async with self._turns.turn(adapter is not None) if self._turns else nullcontext():
                async for out in ask(lora_request=adapter):
                    final = out
        except vllm_versions.part("EngineDeadError") as error:
            raise EngineDied(str(error)) from error
        except Exception:
            if self._engine.errored:
                raise EngineDied("the engine's process died") from None
            raise
        finally:
            self._requests -= 1
        if final is None or not final.outputs:
            raise BadRequest("the engine ended the request without an answer")
        return final

    def _turn_of_logprobs(self, params: Any) -> AbstractAsyncContextManager[None]:
        """In one batch with log-probabilities of chosen tokens, vLLM 0.29 loses others' best (minus infinity)."""
        chosen = bool(getattr(params, "logprob_token_ids", None))
        return self._of_logprobs.turn(chosen) if chosen or params.logprobs else nullcontext()

    async def _add_adapter(self, adapter: Any) -> None:
        """By itself: as a part of a request, one that cannot be loaded would end the engine's process."""
        named = f"the LoRA adapter {adapter.lora_name!r}"
        try:  # as workers will: of several that refuse, vLLM takes one's answer, and others' for its next question's
            helper = vllm_versions.part("PEFTHelper").from_local_dir(adapter.lora_path, None)
            helper.validate_legal(self._config.lora_config)
        except Exception as error:
            raise BadRequest(f"{named} cannot be used: {one_line(error, named=False)}") from None
        loading = asyncio.ensure_future(self._engine.add_lora(adapter))
        while not (await asyncio.wait([loading], timeout=1))[0] and not self._engine.errored:
            pass
        if self._engine.errored:  # vLLM answers no such call of an engine that has died meanwhile
            loading.cancel()
            raise EngineDied(f"the engine's process died while it loaded {named}")
        if problem := loading.exception():
            raise BadRequest(f"the engine refuses {named}: {one_line(problem, named=False)}")

    def limits(self) -> dict[str, Any]:
        scheduler = self._config.scheduler_config
        return {
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "gpu_memory_utilization": self._config.cache_config.gpu_memory_utilization,
        }

    def settings(self) -> dict[str, Any]:
        scheduler, cache = self._config.scheduler_config, self._config.cache_config
        resolved = {
            "max_model_len": self.max_model_len,
            "max_num_seqs": scheduler.max_num_seqs * self._config.parallel_config.data_parallel_size,  # of all copies
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "enable_prefix_caching": cache.enable_prefix_caching,
            "dtype": str(self._config.model_config.dtype).removeprefix("torch."),
        }
        if self.max_model_len < self._own_max_model_len:
            resolved["own_max_model_len"] = self._own_max_model_len
        if (overlapped := getattr(scheduler, "async_scheduling", None)) is not None:
            resolved["async_scheduling"] = overlapped
        if cache.num_gpu_blocks:
            resolved["kv_cache_tokens"] = cache.num_gpu_blocks * cache.block_size
        return resolved

    def load(self) -> dict[str, float]:
        loads = [dict(load) for load in list(self._loads.values())]
        summed = {name: sum(load.get(name, 0.0) for load in loads) for name in (loads[0] if loads else ())}
        if "kv_cache_usage" in summed:
            summed["kv_cache_usage"] /= len(loads)
        return summed

    def is_deaf(self) -> bool:
        return self._hearing.is_lost(self._requests, self.load().get("steps"))

    def shutdown(self) -> None:
        self._engine.shutdown()

    def _sampling_params(self, given: dict[str, Any]) -> Any:
        """vLLM's object. Raises BadRequest where vLLM refuses them, or its engine's process could not read them."""
        key = json.dumps(given, sort_keys=True)
        if key not in self._params:
            try:
                params = _readable(self._new_params(given))
                if params.bad_words:
                    _check_bad_words(params, self._engine.get_tokenizer())
            except Exception as error:
                raise BadRequest(f"sampling_params: {one_line(error)}") from None
            if len(self._params) > 1024:  # a row may bring its own seed; do not keep millions
                self._params.clear()
            self._params[key] = params
        return self._params[key]

    def _new_params(self, given: dict[str, Any]) -> Any:
        from vllm import sampling_params

        fields = {"max_tokens": None, **self._defaults, **given}  # SamplingParams alone would stop at 16 tokens
        for name, of in (("structured_outputs", "StructuredOutputs"), ("repetition_detection", "RepetitionDetection")):
            if isinstance(fields.get(name), dict):
                fields[name] = getattr(sampling_params, f"{of}Params")(**fields[name])
        # FINAL_ONLY: one object a request crosses to us, not one a token.
        return sampling_params.SamplingParams(**fields, output_kind=sampling_params.RequestOutputKind.FINAL_ONLY)


class VLLMStarter(Starter):
    def __init__(self, accelerator_type: str, lora_path: Optional[str], forkserver: Optional[Forkserver]) -> None:
        self._accelerator_type, self._lora_path, self._forkserver = accelerator_type, lora_path, forkserver

    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Callable[[], Any]) -> VLLMEngine:
        return VLLMEngine(model, engine_kwargs, self._accelerator_type, self._lora_path, self._forkserver)

    def goes_another_way(self, words: str) -> bool:
        if self._forkserver is None or not self._forkserver.serves or DID_NOT_SURVIVE not in words:
            return False
        self._forkserver.serves = False
        return True


# vllm/utils/cpu_triton_utils.py, also of 0.32: _expand_kernel_impl writes into a copy of the temperatures, which
# thereby stay what was in that memory, and of top_k and top_p.
AT_RANDOM = (
    "must be 0: on CPUs vLLM samples at a temperature of no meaning beside speculative decoding, which gives "
    "gibberish. Set temperature: 0, or remove speculative_config from engine_kwargs."
)


class VLLM(EngineKind):
    needs_vllm = True
    pools = True
    takes_media = True

    def seen_by_tasks(self, engine_kwargs: Mapping[str, Any], accelerator_type: str) -> Mapping[str, Any]:
        from rayllm_batch.engine.sampling import SPECULATION  # which does not travel to workers

        if accelerator_type != "CPU" or not any(engine_kwargs.get(name) for name in SPECULATION):
            return engine_kwargs
        return {**engine_kwargs, "excluded_settings": {"temperature": AT_RANDOM}}

    def starter(
        self, engine_kwargs: Mapping[str, Any], accelerator_type: str, gpus: float, lora_path: Optional[str]
    ) -> VLLMStarter:
        return VLLMStarter(accelerator_type, lora_path, Forkserver.start(engine_kwargs) if gpus else None)


def _tokens(logprobs: Any) -> list[Any]:
    """Of vLLM's logprobs, a dict a token. The token that was taken comes first in each."""
    return [
        None
        if position is None
        else [
            {"token_id": token_id, "token": one.decoded_token, "logprob": one.logprob, "rank": one.rank}
            for token_id, one in position.items()
        ]
        for position in logprobs
    ]


def _readable(params: Any) -> Any:
    """The same; raises what would end the thread in which the engine's process reads its requests."""
    encoder, decoder = vllm_versions.part("MsgpackEncoder"), vllm_versions.part("MsgpackDecoder")
    decoder(type(params)).decode(encoder().encode(params))
    return params


def _check_bad_words(params: Any, tokenizer: Any) -> None:
    """Raises ValueError where they are more tokens than an engine on a GPU has places for: its process would end."""
    params.update_from_tokenizer(tokenizer)
    most, tokens = vllm_versions.most_bad_words_tokens(), sum(map(len, params.bad_words_token_ids or ()))
    if most is not None and tokens > most:
        most_said = f"at most {most:,} (VLLM_MAX_BAD_WORDS_TOTAL_TOKENS)"
        raise ValueError(f"bad_words are {tokens:,} tokens, but must be {most_said}. Shorten them.")


def _load_logger(load: dict[str, float]) -> Any:
    class LoadLogger(vllm_versions.part("StatLoggerBase")):  # type: ignore[misc]
        """Keeps the scheduler's latest figures. vLLM calls these classes unstable, hence the getattr."""

        def __init__(self) -> None:
            pass

        def record(self, scheduler_stats: Any = None, iteration_stats: Any = None, *_args: Any, **_kwargs: Any) -> None:
            load["steps"] = load.get("steps", 0) + 1
            generated = getattr(iteration_stats, "num_generation_tokens", 0)
            load["generation_tokens"] = load.get("generation_tokens", 0) + generated
            if scheduler_stats is not None:
                load["running"] = getattr(scheduler_stats, "num_running_reqs", 0)
                load["waiting"] = getattr(scheduler_stats, "num_waiting_reqs", 0)
                load["kv_cache_usage"] = getattr(scheduler_stats, "kv_cache_usage", 0.0)

        def log_engine_initialized(self) -> None:
            pass

    return LoadLogger()
