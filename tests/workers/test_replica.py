"""A replica with an engine, a monitor and a process of this file's own: no Ray, no model."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.base import BadRequest, EngineDidNotStart, EngineDied, EngineKind, Reply, Request, Starter
from rayllm_batch.errors import EngineError
from rayllm_batch.measures.row_stats import Counts
from rayllm_batch.measures.snapshot import ReplicaState
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import gpu
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import PromptJob
from rayllm_batch.workers.replica import Replica, ReplicaJob
from rayllm_batch.workers.replica_log import ReplicaLog
from rayllm_batch.workers.suspects import prompt_key

TOLD = Told()  # nothing to be careful with
LIMITS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.9}


class FakeEngine:
    """Answers with how many tokens a prompt has; 66 is a bad request, 77 kills it."""

    max_model_len, vocab_size = 8, 100

    def __init__(self, settings: dict[str, Any]) -> None:
        self.given, self.asked = settings, []  # type: ignore[var-annotated]

    async def generate(self, request: Request) -> Reply:
        self.asked.append(request)
        first = request.prompt_token_ids[0]
        if first == 66:
            raise BadRequest("no such thing")
        if first == 77:
            raise EngineDied("it is dead")
        return Reply(f"{len(request.prompt_token_ids)} tokens", 3, "length" if first == 55 else "stop")

    def limits(self) -> dict[str, Any]:
        return {**LIMITS, **{name: self.given[name] for name in LIMITS if name in self.given}}

    def settings(self) -> dict[str, Any]:
        return {"max_model_len": self.max_model_len, "max_num_seqs": 4}

    def load(self) -> dict[str, float]:
        return {"running": 1.0}

    def is_deaf(self) -> bool:
        return False


class FakeKind(EngineKind, Starter):
    """Its starts fail with the errors given, one after the other."""

    needs_model, rehearses_memory = False, True

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.started = list(errors), []  # type: ignore[var-annotated]

    def starter(self, *_: Any) -> Starter:
        return self

    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Any) -> FakeEngine:
        if self.errors:
            raise self.errors.pop(0)
        self.started.append(FakeEngine(engine_kwargs))
        return self.started[-1]


class FakeMonitor:
    """Notes what it is told."""

    def __init__(self, told: Told = TOLD, may_back_off: bool = False) -> None:
        self.told, self.backing_off = told, may_back_off
        self.notes: list[tuple[str, tuple]] = []
        self.states: list[str] = []
        self.latest = ReplicaState()

    def register(self, state: ReplicaState) -> Told:
        return self.told

    def environment(self) -> dict[str, str]:
        return {}

    def lowered(self) -> dict[str, Any]:
        return {}

    def update(self, state: ReplicaState) -> None:
        self.latest = replace(state)
        if not self.states or self.states[-1] != state.state or state.kept:
            self.states.append(state.state)

    def may_back_off(self, *about: Any) -> bool:
        self.notes.append(("may_back_off", about))
        return self.backing_off

    def __getattr__(self, name: str) -> Any:
        """The state as it was: what is sent to the real one is a copy too."""
        copied = lambda value: replace(value) if isinstance(value, ReplicaState) else value  # noqa: E731
        return lambda *about: self.notes.append((name, tuple(map(copied, about))))

    def of(self, name: str) -> list[tuple]:
        return [about for noted, about in self.notes if noted == name]


class FakeProcess:
    def __init__(self, monitor: FakeMonitor) -> None:
        self.key, self.log, self.reaper, self.blocks = "key", ReplicaLog(None), self, iter(())
        self._monitor, self.ended, self.others_ended = monitor, threading.Event(), 0

    def monitor(self, handle: Any) -> FakeMonitor:
        return self._monitor

    def state(self, kept: bool) -> ReplicaState:
        return ReplicaState(actor_id="actor", node="here", pid=1, kept=kept)

    def end_others(self) -> None:
        self.others_ended += 1

    def end(self) -> None:
        self.ended.set()


def config(kind: FakeKind, **engine_kwargs: Any) -> EngineConfig:
    given = {"model_id": "org/model", "llm_engine": "echo", "accelerator_type": "CPU", "engine_kwargs": engine_kwargs}
    made = init_engine_from_config(given)
    object.__setattr__(made, "engine_kind", kind)
    return made


class Made:
    def __init__(
        self, *errors: Exception, told: Told = TOLD, may_back_off: bool = False, pinned: tuple = (), **kwargs: Any
    ) -> None:
        self.kind, self.monitor = FakeKind(*errors), FakeMonitor(told, may_back_off)
        self.process = FakeProcess(self.monitor)
        prompt = PromptJob(parse_row=dict, tokenizer="none", task=Generate({"temperature": 0.0}))
        job = ReplicaJob("run", config(self.kind, **kwargs), prompt, None, pinned=frozenset(pinned))
        self.replica = Replica(job, self.process)  # type: ignore[arg-type]

    @property
    def engine(self) -> FakeEngine:
        return self.kind.started[-1]

    def answers(
        self, *prompts: list[int], settings: str | None = None, errors: tuple = (), finished: tuple = ()
    ) -> list[dict]:
        table = run_columns.with_stage_columns(
            pa.table({"n": list(range(len(prompts)))}),
            [np.array(ids, dtype=np.int32) for ids in prompts],
            [settings] * len(prompts),
            [*errors, *[None] * (len(prompts) - len(errors))],
        )
        if finished:
            table = table.append_column(
                run_columns.FINISHED_IDS, pa.array([b"id" if n in finished else None for n in range(len(prompts))])
            )
        return self.replica(table, "block").to_pylist()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # put back afterwards


def test_each_row_gets_an_answer_in_its_place() -> None:
    made = Made()
    rows = made.answers(
        [1, 2], [66], [3] * 8, [5, 100], [9], errors=(None, None, None, None, "parse_row: KeyError: 'x'")
    )
    assert [row["generated_text"] for row in rows] == ["2 tokens", None, None, None, None]
    assert [(row["error"] or "").partition(":")[0] for row in rows] == [
        "",
        "engine",
        "tokenize",
        "tokenize",
        "parse_row",
    ]
    assert "raise max_model_len" in rows[2]["error"] and "beyond the model's vocabulary of 100" in rows[3]["error"]
    assert [row["num_input_tokens"] for row in rows] == [2, 1, 8, 2, 1] and [row["finish_reason"] for row in rows][
        1
    ] == "error"
    [(block, stats)] = made.monitor.of("delivers")
    assert block == "block" and stats.counts == Counts(5, 4, 14, 3) and stats.finish_reasons == {"stop": 1, "error": 4}
    assert made.monitor.states == ["ready"] and made.monitor.latest.rows == 5


def test_what_is_loaded_when_the_engine_has_started_is_not_looked_through_for_garbage_again() -> None:
    gc.unfreeze()
    made, loaded = Made(), gc.get_freeze_count()
    gc.unfreeze()
    assert made.replica.engine is made.engine and loaded > 10_000


@pytest.mark.parametrize(
    "engines, settings, waits", [(1, {}, 0), (3, {}, 1), (3, {"kv_cache_memory_bytes": 1 << 30}, 0)]
)
def test_engines_of_one_gpu_start_in_turn_where_each_measures_its_memory(
    engines: int, settings: dict[str, Any], waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    monkeypatch.setattr(gpu, "gpu_to_itself", lambda: waited.append("waited") or nullcontext())
    monkeypatch.setattr(EngineConfig, "engines_per_replica", engines)
    assert Made(**settings).replica.engine and len(waited) == waits


def test_the_rows_own_settings_go_over_the_workloads() -> None:
    made = Made()
    made.answers([1], settings='{"model": "adapter", "sampling_params": {"logit_bias": {"7": 1.0}}}')
    [request] = made.engine.asked
    assert request == Request([1], {"temperature": 0.0, "logit_bias": {7: 1.0}}, "adapter")


def test_equal_rows_are_computed_once_where_their_answers_are_equal() -> None:
    made = Made()
    assert [row["generated_text"] for row in made.answers([4, 4], [4, 4], [4])] == ["2 tokens", "2 tokens", "1 tokens"]
    assert len(made.engine.asked) == 2
    made.answers([5], [5], settings='{"sampling_params": {"temperature": 1.0}}')
    assert len(made.engine.asked) == 4


def test_a_marker_of_finished_rows_is_not_a_row() -> None:
    made = Made()
    rows = made.answers([1], [2], finished=(1,))
    assert len(rows) == 2 and rows[1]["generated_text"] is None
    assert made.monitor.of("delivers")[0][1].counts.rows == 1 and len(made.engine.asked) == 1


def test_an_answer_cut_short_of_its_form_is_an_error() -> None:
    [row] = Made().answers([55], settings='{"sampling_params": {"structured_outputs": {"choice": ["yes", "no"]}}}')
    assert (
        row["generated_text"] == "1 tokens"
        and row["finish_reason"] == "error"
        and "raise max_tokens (it has 3 tokens)" in row["error"]
    )


def test_a_guilty_row_is_left_out_and_suspects_go_first() -> None:
    guilty, suspect = prompt_key([9], None), prompt_key([8], None)
    made = Made(told=Told(guilty={guilty: "SIGSEGV"}, suspects={suspect: 1}))
    rows = made.answers([7], [9], [8])
    assert "makes the engine crash" in rows[1]["error"] and "SIGSEGV" in rows[1]["error"]
    assert [request.prompt_token_ids for request in made.engine.asked] in ([[8], [7]], [[7], [8]])
    assert [row["generated_text"] for row in rows] == ["1 tokens", None, "1 tokens"]


def test_a_dead_engine_ends_the_process_and_names_what_it_computed() -> None:
    made = Made()
    made.answers([77])
    assert made.process.ended.wait(5)
    [(last, computing, message)] = made.monitor.of("died")
    assert computing == [prompt_key([77], None)] and message == "it is dead" and last.rows == 0


OUT_OF_MEMORY = (
    "Model loading took 2.0 GiB\nGPU KV cache size: 10 tokens\nCUDA out of memory occurred with 8 dummy requests"
)


def test_an_engine_that_lacks_memory_starts_with_less() -> None:
    made = Made(EngineDidNotStart(OUT_OF_MEMORY, LIMITS))
    [(note, name, value)] = made.monitor.of("backs_off")
    assert made.engine.given[name] == value < LIMITS[name] and f"{name}={value}" in note
    assert made.process.others_ended == 1 and made.monitor.states == ["ready"]


def test_what_the_user_has_set_is_not_lowered() -> None:
    with pytest.raises(EngineError, match="max_num_seqs"):
        Made(*[EngineDidNotStart(OUT_OF_MEMORY, LIMITS)] * 20, pinned=tuple(LIMITS), max_num_seqs=256)


def test_an_engine_that_does_not_start_is_told() -> None:
    kind = FakeKind(RuntimeError("no such model"))
    monitor = FakeMonitor()
    job = ReplicaJob("run", config(kind), PromptJob(parse_row=dict, tokenizer="none"), None)
    with pytest.raises(EngineError, match="The engine did not start: no such model"):
        Replica(job, FakeProcess(monitor))  # type: ignore[arg-type]
    assert monitor.of("failed") == [("EngineError", "The engine did not start: no such model")]


def test_a_run_that_is_over_starts_no_engine() -> None:
    with pytest.raises(EngineError, match="it died five times"):
        Made(told=Told(stop="it died five times"))


def test_it_takes_part_in_the_next_run_with_its_engine() -> None:
    made = Made()
    made.answers([1])
    made.monitor.told = Told(
        job=replace(
            made.replica.job,
            run_id="next",
            prompt=replace(made.replica.job.prompt, task=Generate({"temperature": 1.0})),
        )
    )
    made.replica.adopt("next")
    made.answers([1])
    assert [request.settings["temperature"] for request in made.engine.asked] == [0.0, 1.0] and len(
        made.kind.started
    ) == 1
    assert made.monitor.latest.rows == 1, "counted anew"
    made.replica.adopt("next")
    assert made.monitor.latest.kept and made.monitor.latest.start_s == 0.0


def test_it_reports_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayllm_batch.workers.replica.REPORT_EVERY_S", 0.02)
    made = Made()
    deadline = time.monotonic() + 5
    while not made.monitor.latest.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert made.monitor.latest.running == 1.0 and made.monitor.latest.in_flight == 0


def test_requests_for_a_trial_and_the_errors_of_the_others() -> None:
    made = Made()
    table = run_columns.with_stage_columns(
        pa.table({"n": [1, 2]}), [np.array([1], dtype=np.int32), None], [None, None], [None, "parse_row: x"]
    )
    requests, failed = made.replica.requests(table)
    assert [request.prompt_token_ids for request in requests] == [[1]] and failed == ["parse_row: x"]
    trial = made.replica.try_out(requests, 2, reading_only=True)
    assert trial.output_tokens == [3, 3] and all(request.settings["max_tokens"] == 1 for request in made.engine.asked)
