"""A row, as the CPU stage has made it, becomes an answer: every row gets one, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import itertools
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Optional, cast

from rayllm_batch.engine.base import BadRequest, Engine, EngineDied, EngineUnavailable, Reply, Request
from rayllm_batch.errors import RolloutError, WorkloadError, one_line, shown
from rayllm_batch.output.run_columns import (
    MEDIA,
    MESSAGES,
    REQUEST,
    STAGE_ERROR,
    TOKEN_IDS,
    NoColumns,
    checked_columns,
    media_of,
)
from rayllm_batch.tasks.base import Answer, InvalidAnswer, Task
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import Prompt, prompt_of
from rayllm_batch.workers.rollouts import Rollouts
from rayllm_batch.workers.suspects import Gate, guilty_error, prompt_key
from rayllm_batch.workers.tokenizer import beyond_vocabulary, pooled_too_long

if TYPE_CHECKING:
    from rayllm_batch.workers.replica import ReplicaJob


PROMPT_KEYS = ("messages", "prompt", "prompt_token_ids", "model", "sampling_params")  # of what `parse_row` returns
READ_S = 60.0  # seconds for an answer to be read by the validators of output_schema's type
MEDIA_CALLS, MEDIA_BYTES = 4, 2 << 30  # of rollouts: whose media are read at once, and that wait for their answers
KEPT_CALLS = 256  # of a rollout's output_schemas
KEPT = 20_000  # finished answers to equal requests, the latest: some 10 MB
KEPT_NUMBERS = 8_000_000  # of vectors in them: some 32 MB


class Answering:
    """Of one run, with one engine, inside one event loop. on_death: called with the reason when the engine has died."""

    def __init__(self, engine: Engine, job: ReplicaJob, told: Told, on_death: Callable[[str], None]) -> None:
        self._engine, self._config, self._on_death = engine, job.config, on_death
        self._prompt, self._task = job.prompt, job.prompt.task
        self._guilty = told.guilty
        self._rollouts: Any = job.prompt.rollouts() if job.prompt.rollouts else None
        self._readers = Rollouts(_values_of, READ_S)
        self.ended: Optional[str] = None  # why nothing is answered any more, where no row is to blame
        self._prompts = ThreadPoolExecutor(1, "prompts")
        self._readers_of_media = ThreadPoolExecutor(MEDIA_CALLS, "media")
        self._room = _Room(MEDIA_BYTES)
        self._kept_calls: dict[Any, tuple[Any, Task]] = {}
        kept = min(KEPT, KEPT_NUMBERS // max(1, self._task.numbers))
        self._duplicates = Duplicates(kept) if job.deduplicate else None
        self._gate = Gate(dict(told.suspects)) if told.suspects else None
        self._in_engine: dict[object, tuple[list[int], str]] = {}  # oldest first
        self._busy_since, self._busy_s = 0.0, 0.0

    def end(self) -> None:
        """After its run's last row; inside the loop."""
        self._prompts.shutdown(wait=False)
        self._readers_of_media.shutdown(wait=False, cancel_futures=True)
        self._readers.end()
        if self._rollouts is not None:
            self._rollouts.end()

    @property
    def in_flight(self) -> int:
        """Requests that the engine has."""
        return len(self._in_engine)

    @property
    def busy_s(self) -> float:
        """Seconds during which the engine had work."""
        return self._busy_s + (time.time() - self._busy_since if self._in_engine else 0.0)

    def computing(self, most: int) -> list[bytes]:
        """The keys of those that the engine computes: the oldest. Those behind wait in its queue, harmless."""
        return [prompt_key(ids, own) for ids, own in itertools.islice(self._in_engine.values(), most)]

    def request(self, row: dict[str, Any], task: Optional[Task] = None) -> Request | str:
        """What the engine gets for a row; or the row's error, where it can get nothing."""
        ids, most = row[TOKEN_IDS], self._engine.max_model_len
        if row[STAGE_ERROR] is not None:
            return row[STAGE_ERROR]
        task, (media, of_media) = task or self._task, media_of(row)
        more: dict[str, Any] = {"media": media, "media_tokens": of_media} if media else {}
        if self._prompt.as_text:
            prompt = json.loads(row[MESSAGES] or "null")
            more["messages" if isinstance(prompt, list) else "prompt"] = prompt
            return self._with_kwargs(task.request([] if ids is None else ids.tolist(), row[REQUEST]), **more)
        if task.pools and (longest := max(task.lengths_of_prompts(row[REQUEST], len(ids)))) > most:
            return f"tokenize: {pooled_too_long(longest, most)}"
        if not task.pools and len(ids) + of_media >= most:
            longer = "raise max_model_len"
            if self._config.engine_kwargs.get("max_model_len") is None and self._config.gpus_per_replica:
                longer = "use a model for longer ones, or, if its KV cache is the limit, a higher "
                longer += "tensor_parallel_size or a larger GPU"
            with_them = f" with its media's {of_media}" if of_media else ""
            tokens = f"{len(ids) + of_media} tokens{with_them}"
            too_long = f"the prompt has {tokens}, but max_model_len is {most} (prompt and answer together)"
            return f"tokenize: {too_long}; shorten the row or {longer}"
        if problem := beyond_vocabulary(ids, self._engine.vocab_size):  # vLLM takes some of these, and dies
            return problem
        return self._with_kwargs(task.request(ids.tolist(), row[REQUEST]), **more)

    def _with_kwargs(self, request: Request, **more: Any) -> Request:
        """With the job's chat_template_kwargs, over which a row's own go, and what else is given."""
        if how := self._prompt.chat_template_kwargs:
            more["chat_template_kwargs"] = {**how, **request.chat_template_kwargs}
        return dataclasses.replace(request, **more) if more else request

    async def answer(self, row: dict[str, Any], task: Optional[Task] = None) -> Answer:
        """task: None for the job's own."""
        task = task or self._task
        ids = None if self._prompt.as_text else row[TOKEN_IDS]
        answer = Answer(num_input_tokens=0 if ids is None else len(ids), own_text=row[REQUEST])
        answer.is_truncated = task.was_truncated(row[REQUEST])
        request = self.request(row, task)
        if isinstance(request, str):
            answer.error = request
            return answer
        answer.num_input_tokens += request.media_tokens
        try:
            await self._converse(answer, request, row, task)
        except EngineUnavailable as error:
            self.ended, answer.unasked = str(error), True
        except RowError as error:
            answer.error = str(error)
        except BadRequest as error:
            answer.error = f"engine: {one_line(error, named=False)}"
        except InvalidAnswer as error:
            answer.error = f"answer: {one_line(error, named=False)}"
        except Exception as error:
            answer.error = f"engine: {one_line(error)}"
        return answer

    async def roll(self, row: dict[str, Any], values: dict[str, Any]) -> Answer:
        """Of a workload with a rollout: what it makes of the values, and its last answer. row: the CPU stage's."""
        task: Any = self._task
        answer, limits = Answer(error=row[STAGE_ERROR]), task.limits
        if answer.error is not None:
            return answer
        calls, taken = itertools.count(1), {*values, *task.schema.names}

        def generate(
            prompt: Any, *, output_schema: Any = None, tools: Any = None, tool_choice: Any = None, **settings: Any
        ) -> Coroutine[Any, Any, Any]:
            """In the rollout's thread: what that does to its messages from now on is not what it has asked."""
            asked = prompt, {"tools": tools, "tool_choice": tool_choice}, settings
            with contextlib.suppress(Exception):  # what cannot be copied is no prompt, and refused as such
                asked = copy.deepcopy(asked)
            return one_call(*asked, output_schema)

        async def one_call(prompt: Any, tools: dict[str, Any], settings: dict[str, Any], output_schema: Any) -> Any:
            if next(calls) > limits.calls:
                raise RolloutError(f"it called generate more than {limits.calls} times (max_calls)")
            if limits.tokens is not None and answer.num_generated_tokens >= limits.tokens:
                used = f"{answer.num_generated_tokens:,} tokens"
                raise RolloutError(f"its answers have {used}, and max_rollout_tokens is {limits.tokens:,}")
            one = await self._call(prompt, output_schema, tools, settings)
            answer.unasked |= one.unasked  # whatever the user's code makes of it
            answer.reply, answer.complaints = one.reply or answer.reply, [*answer.complaints, *one.complaints]
            answer.num_reasks += one.num_reasks
            answer.num_input_tokens += one.num_input_tokens
            answer.num_generated_tokens += one.num_generated_tokens
            answer.num_requests += one.num_requests
            return task.generated(one)

        try:
            returned = await self._rollouts.run(values, generate)
            answer.own_columns = checked_columns(returned, taken)
        except Exception as error:
            answer.error = f"rollout: {one_line(error, named=not isinstance(error, (RolloutError, NoColumns)))}"
        return answer

    async def _call(self, prompt: Any, output_schema: Any, tools: dict[str, Any], settings: dict[str, Any]) -> Answer:
        """One `generate` of a rollout, as a row of its own. Raises RolloutError for what it does not take."""
        if prompt is None or isinstance(prompt, str):
            takes = 'a chat, such as [{"role": "user", "content": ...}], or a dict as parse_row returns it'
            raise RolloutError(f"generate: it takes {takes}, but was given {shown(prompt)}")
        if beside := next((key for key in settings if key in PROMPT_KEYS), None):
            how = f'generate({{"messages": ..., {beside!r}: ...}})'
            raise RolloutError(f"generate: {beside!r} is no setting of the request: give it as {how}")
        given: dict[str, Any] = dict(prompt) if isinstance(prompt, dict) else {"messages": prompt}
        given |= {key: value for key, value in tools.items() if value is not None}
        output_schema = given.pop("output_schema", None) if output_schema is None else output_schema
        try:
            task = self._calls(output_schema, bool(given.get("tools")))
            if settings:
                given["sampling_params"] = {**(given.get("sampling_params") or {}), **settings}
            parsed = task.parse(lambda row: given, {})
        except (TypeError, WorkloadError) as error:
            raise RolloutError(f"generate: {one_line(error, named=False)}") from None
        row: dict[str, Any] = {
            TOKEN_IDS: parsed.get("prompt_token_ids"),
            STAGE_ERROR: None,
            REQUEST: task.own_text(parsed),
        }
        text = parsed.get("messages") or parsed.get("prompt")
        if text is not None:
            row |= await self._prompt_of(text, parsed.get("tools"))
        if "media" in parsed and row[STAGE_ERROR] is None:
            row |= await self._with_media(parsed, task)
        is_needed = text is not None and (self._prompt.as_text or isinstance(text, list) and task.reask)
        row[MESSAGES] = json.dumps(text) if is_needed else None
        media: list[dict[str, Any]] = row.get(MEDIA) or []
        async with self._room.of(sum(len(one["data"] or b"") for one in media)):
            return await self.answer(row, task)

    async def _with_media(self, parsed: dict[str, Any], task: Task) -> dict[str, Any]:
        """What the CPU stage's columns would have of a call's media. They are read in threads, a few calls' at once."""
        of_media, run = self._prompt.media, asyncio.get_running_loop().run_in_executor
        found = await run(self._readers_of_media, of_media.found, parsed["media"])
        media = await run(self._prompts, of_media.of_row, found, self._prompt)
        if isinstance(media, str):
            return {STAGE_ERROR: media}
        return {MEDIA: media, REQUEST: task.own_text({**parsed, "digests": [one["digest"] for one in media]})}

    def _calls(self, output_schema: Any, has_tools: bool) -> Task:
        """Of each schema once: the types in a rollout's code are the same objects for every row. Two that are made for
        different rows may look alike.
        """
        key: Any = has_tools, output_schema
        try:
            hash(key)
        except TypeError:
            key = f"{has_tools} {output_schema!r}" if isinstance(output_schema, (dict, list)) else id(output_schema)
        if key not in self._kept_calls:
            if len(self._kept_calls) > KEPT_CALLS:
                self._kept_calls.clear()
            self._kept_calls[key] = output_schema, cast(Any, self._task).call(output_schema, has_tools)
        return self._kept_calls[key][1]

    async def _converse(self, answer: Answer, request: Request, row: dict[str, Any], task: Task) -> None:
        """Until a reply has the form asked for, or it was asked for often enough."""
        while True:
            asked = f" {row[MESSAGES]}" if self._prompt.as_text else ""
            reply = await self.reply(request, f"{task.tells_apart}{row[REQUEST] or ''}{asked}")
            answer.replied(reply)
            try:
                answer.values = await self._read(_Reading(task, request, reply))
                return
            except InvalidAnswer as invalid:
                answer.complaints.append(one_line(invalid, named=False))
                if len(answer.complaints) > task.reask or request.prompt is not None or row[MESSAGES] is None:
                    raise
                row, request = await self._again(row, task, request, answer)
                answer.num_reasks += 1
                answer.num_input_tokens += request.num_input_tokens

    async def _read(self, reading: _Reading) -> dict[str, Any]:
        """Raises InvalidAnswer, and RowError where the user's own code does not come to an end."""
        if not reading.task.reads_by_user_code:
            return reading.values()
        try:
            return await self._readers.run(cast(Any, reading), cast(Any, None))
        except RolloutError as error:
            raise RowError(f"answer: the code of output_schema's type: {str(error).partition(' without')[0]}") from None

    async def _again(
        self, row: dict[str, Any], task: Task, request: Request, answer: Answer
    ) -> tuple[dict[str, Any], Request]:
        """The conversation so far, and what is wrong with its end. Raises InvalidAnswer where that has no place."""
        messages = with_complaint(json.loads(row[MESSAGES]), cast(Reply, answer.reply).text, answer.complaints[-1])
        prompt = await self._prompt_of(messages, request.tools)
        row = {**row, **prompt, MESSAGES: json.dumps(messages)}
        again = self.request(row, task)
        if isinstance(again, str):
            raise InvalidAnswer(f"{answer.complaints[-1]} (it could not be asked for again: {again})")
        return row, again

    async def _prompt_of(self, prompt: Prompt, tools: Optional[list[dict[str, Any]]]) -> dict[str, Any]:
        """In a thread, since it would keep the engine's loop; in one, since a tokenizer is not made for several."""
        return await asyncio.get_running_loop().run_in_executor(self._prompts, prompt_of, prompt, self._prompt, tools)

    async def reply(self, request: Request, own: str) -> Reply:
        """The engine's. own: what is asked beside the prompt, of that which is not the whole job's.

        Raises RowError, or what the engine raises.
        """
        once = self._duplicates if self._task.is_repeatable(request) else None
        key = prompt_key(request.prompt_token_ids, own) if once or self._guilty or self._gate else b""
        if key in self._guilty:
            raise RowError(guilty_error(self._guilty[key]))
        suspect = self._gate is not None and await self._gate.enter(key)
        try:
            generate = partial(self._generate, request, own)
            return await (once.answer(key, generate) if once else generate())
        finally:
            if self._gate is not None:
                await self._gate.leave(suspect)

    async def _generate(self, request: Request, own: str) -> Reply:
        if not self._in_engine:
            self._busy_since = time.time()
        mine = object()
        self._in_engine[mine] = (request.prompt_token_ids, own)
        try:
            return await self._engine.generate(request)
        except EngineDied as error:
            self._on_death(str(error))
            raise
        finally:
            del self._in_engine[mine]
            if not self._in_engine:
                self._busy_s += time.time() - self._busy_since


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Of a reply, what the columns need; as Rollouts run it."""

    task: Task
    request: Request
    reply: Reply

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reading:
        return self

    def values(self) -> dict[str, Any]:
        return self.task.read_reply(self.request, self.reply)


async def _values_of(reading: Any, generate: Any) -> dict[str, Any]:
    return reading.values()


class _Room:
    """For so many bytes at once, inside one event loop; larger ones are there alone."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._changed = most, 0, asyncio.Event()

    @contextlib.asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        while size and self._held and self._held + size > self._most:
            await self._changed.wait()
        self._held += size
        try:
            yield
        finally:
            self._held -= size
            self._changed.set()
            self._changed = asyncio.Event()


class RowError(Exception):
    """What a row's `error` says; nothing was asked of the engine."""


def with_complaint(messages: list[dict[str, Any]], text: str, complaint: str) -> list[dict[str, Any]]:
    """messages: of the request that `text` answers; where the last is the assistant's, the answer continues it."""
    if messages[-1]["role"] == "assistant":
        text, messages = messages[-1]["content"] + text, messages[:-1]
    again = f"That answer is not valid: {complaint}. Give the whole answer again, corrected, and nothing else."
    return [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": again}]


class Duplicates:
    """Equal requests that get equal replies: computed once, answered each. Use it inside one event loop."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._answers: OrderedDict[bytes, asyncio.Future[Reply]] = OrderedDict()

    async def answer(self, key: bytes, compute: Callable[[], Awaitable[Reply]]) -> Reply:
        """What `compute` gives, or gave, or is about to give to another row with this key; its errors too."""
        while key in self._answers:
            self._answers.move_to_end(key)
            theirs = self._answers[key]
            try:
                return await asyncio.shield(theirs)
            except asyncio.CancelledError:
                if not theirs.cancelled():  # then it is this row that shall end
                    raise
        future = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(await compute())
        except BaseException as error:
            del self._answers[key]  # the next one may try again
            if isinstance(error, asyncio.CancelledError):  # of a row that was given up: the others ask themselves
                future.cancel()
                raise
            future.set_exception(error)
            future.exception()  # taken note of: there may be nobody else who waits for it
            raise
        while len(self._answers) > self._kept:
            oldest = next(iter(self._answers))
            if not self._answers[oldest].done():
                break
            del self._answers[oldest]
        return future.result()
