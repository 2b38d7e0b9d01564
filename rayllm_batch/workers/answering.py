"""A row, as the CPU stage has made it, becomes an answer: every row gets one, whatever happens to it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Optional

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.base import BadRequest, Engine, EngineDied, Reply, Request
from rayllm_batch.errors import one_line
from rayllm_batch.output import run_columns as output
from rayllm_batch.tasks.base import Answer
from rayllm_batch.workers.duplicates import Duplicates
from rayllm_batch.workers.suspects import Gate, guilty_error, prompt_key
from rayllm_batch.workers.tokenizer import beyond_vocabulary


class BadRow(Exception):
    """A row that cannot reach the engine; its text is the row's error."""


class Answering:
    """Of one run, with one engine. Use it inside one event loop.

    settings:         the workload's; a row's own go over them.
    deduplicate:      equal prompts with equal settings are computed once, where the answer is the same each time.
    guilty, suspects: rows that make the engine crash, and those that may; see suspects.py.
    on_death:         called with the reason when the engine has died.
    """

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        settings: Mapping[str, Any],
        *,
        deduplicate: bool,
        guilty: Mapping[bytes, str],
        suspects: Mapping[bytes, int],
        on_death: Callable[[str], None],
    ) -> None:
        self._engine, self._config, self._task, self._settings = engine, config, config.task_kind, settings
        self._guilty, self._on_death = guilty, on_death
        self._duplicates = Duplicates() if deduplicate else None
        self._gate = Gate(dict(suspects)) if suspects else None
        self._in_engine: dict[int, tuple[list[int], Optional[str]]] = {}  # oldest first
        self._numbers = itertools.count()
        self._busy_since, self._busy_s = 0.0, 0.0

    @property
    def in_flight(self) -> int:
        """Requests that the engine has."""
        return len(self._in_engine)

    @property
    def busy_s(self) -> float:
        """Seconds during which the engine had work."""
        return self._busy_s + (time.time() - self._busy_since if self._in_engine else 0.0)

    def computing(self, most: int) -> list[bytes]:
        """The keys of those that the engine computes: the oldest. Those behind wait in its queue, and can have done nothing to it."""
        return [prompt_key(ids, own) for ids, own in itertools.islice(self._in_engine.values(), most)]

    def request(self, row: dict[str, Any]) -> Request:
        """What the engine gets for a row. Raises BadRow, which has the row's error, where it can get nothing."""
        ids = row[output.TOKEN_IDS]
        if row[output.STAGE_ERROR] is not None:
            raise BadRow(row[output.STAGE_ERROR])
        if len(ids) >= self._engine.max_model_len:
            raise BadRow(
                f"tokenize: the prompt has {len(ids)} tokens, but max_model_len is {self._engine.max_model_len} "
                f"(prompt and answer together); shorten the row or {self._longer()}"
            )
        if problem := beyond_vocabulary(ids, self._engine.vocab_size):  # vLLM takes some of these, and dies
            raise BadRow(problem)
        return self._task.request(ids.tolist(), row[output.REQUEST], self._settings)

    async def answer(self, row: dict[str, Any]) -> Answer:
        answer = Answer(num_input_tokens=0 if row[output.TOKEN_IDS] is None else len(row[output.TOKEN_IDS]))
        try:
            request = self.request(row)
        except BadRow as error:
            answer.error = str(error)
            return answer
        once = self._duplicates if self._task.is_repeatable(request) else None
        own = row[output.REQUEST]
        key = prompt_key(request.prompt_token_ids, own) if once or self._guilty or self._gate else b""
        if key in self._guilty:
            answer.error = guilty_error(self._guilty[key])
            return answer
        suspect = self._gate is not None and await self._gate.enter(key)
        try:
            generate = partial(self._generate, request, own)
            reply = await (once.answer(key, generate) if once else generate())
        except BadRequest as error:
            answer.error = f"engine: {one_line(error, named=False)}"
        except Exception as error:
            answer.error = f"engine: {one_line(error)}"
        else:
            if problem := self._task.problem(request, reply):
                answer.error = f"engine: {problem}"
            else:
                answer.reply = reply
        if self._gate is not None:
            await self._gate.leave(suspect)
        return answer

    async def _generate(self, request: Request, own: Optional[str]) -> Reply:
        if not self._in_engine:
            self._busy_since = time.time()
        number = next(self._numbers)
        self._in_engine[number] = (request.prompt_token_ids, own)
        try:
            return await self._engine.generate(request)
        except EngineDied as error:
            self._on_death(str(error))
            raise
        finally:
            del self._in_engine[number]
            if not self._in_engine:
                self._busy_s += time.time() - self._busy_since

    def _longer(self) -> str:
        """What allows longer prompts."""
        if self._config.engine_kwargs.get("max_model_len") is None and self._config.gpus_per_replica:
            return "use a model for longer ones, or, if its KV cache is the limit, a higher tensor_parallel_size or a larger GPU"
        return "raise max_model_len"
