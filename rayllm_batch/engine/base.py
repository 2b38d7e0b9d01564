"""What the rest asks of an engine, and of a kind of engine instead of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional, Protocol, Union

from rayllm_batch.media.medium import Medium

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pooling:
    """That a request wants vectors, and no text.

    task: vLLM's: "embed", "classify". size: numbers in each vector. lengths: tokens of each prompt; the request's token
    ids are these prompts, one after the other. second_texts: of each, the token at which its second text begins, for
    models that tell the texts of a pair apart by token types; else empty.
    """

    task: str
    size: int
    lengths: tuple[int, ...]
    second_texts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Request:
    """What an engine gets for one row.

    prompt_token_ids: the whole prompt. settings: of the task, as vLLM's SamplingParams has them for `generate`, and its
    PoolingParams where there is a pooling. model: a LoRA adapter's name. cache_salt: prompts share a prefix cache only
    with those of the same salt. tools, chat_template_kwargs: that the prompt was made with, for the parsers of what
    comes back. tool_choice: the OpenAI API's "required", "none" or {"type": "function", "function": {"name": ...}};
    None where the model chooses. raw: the answer's text is wanted as it is, though the engine has parsers. pooling:
    None where text is wanted. messages, prompt: one of them for an engine that tokenizes, in place of token ids. media:
    in the order of their placeholders in the prompt, or of their parts in the messages. media_tokens: that they take in
    the prompt beside these, as far as is known before.
    """

    prompt_token_ids: list[int]
    settings: dict[str, Any] = field(default_factory=dict)
    model: Optional[str] = None
    cache_salt: Optional[str] = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    pooling: Optional[Pooling] = None
    raw: bool = False
    messages: Optional[list[dict[str, Any]]] = None
    prompt: Optional[str] = None
    media: tuple[Medium, ...] = ()
    media_tokens: int = 0
    tool_choice: Union[str, dict[str, Any], None] = None

    @property
    def num_input_tokens(self) -> int:
        """As far as is known before it is asked."""
        return len(self.prompt_token_ids) + self.media_tokens

    @property
    def forces_a_call(self) -> bool:
        return self.tool_choice not in (None, "none")


@dataclass(frozen=True)
class ParsedAnswer:
    """One answer, taken apart by the parsers of engine_kwargs.

    content: without thoughts and calls; None where there is nothing else. tool_calls: of each its id, name, and
    arguments as JSON text. num_reasoning_tokens: None where the parser does not count them. problem: why it could not
    be taken apart; then content is the whole text.
    """

    reasoning: Optional[str] = None
    content: Optional[str] = None
    tool_calls: tuple[dict[str, str], ...] = ()
    num_reasoning_tokens: Optional[int] = 0
    problem: str = ""


@dataclass(frozen=True)
class Reply:
    """What it gives back.

    text:                 of the first answer; its content, where there are parsers.
    num_generated_tokens: of all answers.
    finish_reason:        of the first, vLLM's: "stop", "length", or "repetition" (by `repetition_detection`).
    texts, finish_reasons: of each answer, where n was above 1.
    logprobs:             of each answer a list of its tokens, each a list of {token_id, token, logprob, rank}: the
                          token that was taken first, then the others that were asked for.
    prompt_logprobs:      likewise of the prompt's tokens; None for its first, which nothing comes before.
    parsed:               each answer, where there are parsers.
    vectors:              of each prompt of a pooling request, shape (size,) of float32; then the text is "".
    stop_reasons:         of each answer the text or token id of the settings that it stopped at, or None.
    num_input_tokens:     of the prompt, those that the request did not know of: all, from an engine that tokenizes.
    """

    text: str
    num_generated_tokens: int
    finish_reason: str
    texts: tuple[str, ...] = ()
    finish_reasons: tuple[str, ...] = ()
    logprobs: Optional[list[list[list[dict[str, Any]]]]] = None
    prompt_logprobs: Optional[list[Optional[list[dict[str, Any]]]]] = None
    parsed: tuple[ParsedAnswer, ...] = ()
    vectors: tuple[np.ndarray, ...] = ()
    stop_reasons: tuple[Union[int, str, None], ...] = ()
    num_input_tokens: int = 0


class BadRequest(Exception):
    """The engine does not take this request, or ended it without an answer; its text says why."""


class EngineDied(Exception):
    """The engine can answer nothing any more; its process must be replaced."""


class EngineUnavailable(Exception):
    """No request is answered any more, and no row is to blame: the run ends, and can be continued. Its text: why."""


class EngineDidNotStart(Exception):
    """Its text is what the engine said. settings: the limits that it had resolved by then."""

    def __init__(self, text: str, settings: dict[str, Any]) -> None:
        super().__init__(text)
        self.settings = settings


class Engine(Protocol):
    """A started engine. `generate` is called from one event loop, many times at once."""

    max_model_len: int

    @property
    def vocab_size(self) -> Optional[int]:
        """A token id from here on ends the engine; None where any is taken."""

    async def generate(self, request: Request) -> Reply:
        """The reply to one request. EngineDied means a dead engine; any other error is of this request alone."""

    def limits(self) -> dict[str, Any]:
        """What decides how much memory it takes: max_num_seqs, max_num_batched_tokens, gpu_memory_utilization."""

    def settings(self) -> dict[str, Any]:
        """The limits the engine resolved: max_model_len, max_num_seqs, max_num_batched_tokens, KV cache tokens."""

    def load(self) -> dict[str, float]:
        """Now: running and waiting requests, kv_cache_usage from 0 to 1; generation_tokens, of all requests so far."""

    def is_deaf(self) -> bool:
        """Whether it has requests and, for some seconds now, does nothing at all: it will never answer."""

    def shutdown(self) -> None:
        """End the engine and every process it started."""


class Starter:
    """Starts the engines of one replica, one after the other; made in its process with the engine's environment set."""

    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Callable[[], Any]) -> Engine:
        """Called inside a running event loop. model: its folder or id. decoder: loads what makes text of token ids.

        Raises EngineDidNotStart where other settings may help, and anything else where they will not.
        """
        raise NotImplementedError

    def goes_another_way(self, words: str) -> bool:
        """Whether the next start will do without what made this one fail with these words."""
        return False


class EngineKind:
    """Facts about a kind of engine."""

    needs_vllm = False  # it runs vLLM, on each node that has one
    needs_model = True  # it has a model's vocabulary and context; its files are downloaded and checked before
    needs_gpus = True  # it takes those that the config speaks of, and none on accelerator_type CPU
    pools = False  # it answers requests with a pooling, when it was started for them
    takes_media = False  # requests may have pictures, sound and film beside their text
    tokenizes = False  # it takes messages and texts as they are; nothing of a model is on our side
    at_once_setting = "max_num_seqs"  # which of engine_kwargs `at_once` is
    rehearses_memory = False  # it acts as if it had a GPU's memory, also where it has none
    own_settings: Optional[tuple[str, ...]] = None  # names of engine_kwargs that it has; None: vLLM's and no others
    how_fast: frozenset[str] = frozenset()  # of its own settings, those that decide no answers

    def check_settings(self, engine_kwargs: Mapping[str, Any], source: str, model: str) -> dict[str, Any]:
        """engine_kwargs as they are from then on. Raises ConfigError. source: what has them, for its text."""
        from rayllm_batch.engine import engine_args

        return engine_args.check(engine_kwargs, self.own_settings, source, model)

    def seen_by_tasks(self, engine_kwargs: Mapping[str, Any], accelerator_type: str) -> Mapping[str, Any]:
        """As `Task.of` gets them: with parsers where replies come taken apart; `excluded_settings`: names, and why."""
        return engine_kwargs

    def at_once(self, engine_kwargs: Mapping[str, Any]) -> Optional[int]:
        """How many requests one engine computes at a time, where its settings say."""
        return engine_kwargs.get("max_num_seqs")

    def each_engines(self, engine_kwargs: Mapping[str, Any], engines: int) -> dict[str, Any]:
        """Of so many engines: limits that are those of a whole run, divided."""
        return dict(engine_kwargs)

    def secrets(self, engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str]) -> dict[str, str]:
        """What its processes need of this one's environment. env_vars: the config's. Raises ConfigError."""
        return {}

    def cost_usd(self, engine_kwargs: Mapping[str, Any], input_tokens: float, output_tokens: float) -> Optional[float]:
        """Of tokens that have a price each."""
        return None

    def least_s(self, engine_kwargs: Mapping[str, Any], requests: int, tokens: float) -> float:
        """Seconds that so much takes at least, by limits of the config's."""
        return 0.0

    def check_before_start(
        self, model: str, engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str], settings: Mapping[str, Any]
    ) -> None:
        """On the driver. Raises ConfigError for what can be known to be wrong. settings: the task's."""

    def starter(
        self, engine_kwargs: Mapping[str, Any], accelerator_type: str, gpus: float, lora_path: Optional[str]
    ) -> Starter:
        """Of one replica. gpus: how many it has. lora_path: the folder or URI with the LoRA adapters."""
        raise NotImplementedError
