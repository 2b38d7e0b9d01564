"""Rows that crash the engine are found among their neighbours: the gate, the suspects, an engine of this file's own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.engine.base import EngineDied, Reply, Request
from rayllm_batch.measures.snapshot import ReplicaState
from rayllm_batch.output import run_columns
from rayllm_batch.run.monitor import RunMonitor
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import PromptJob
from rayllm_batch.workers.replica import ReplicaJob
from rayllm_batch.workers.suspects import AT_ONCE, Gate, Suspects, guilty_error, prompt_key

# Of a poison row: a death among all that run, one among at most AT_ONCE, one alone.
DEATHS_EACH = 3
CONFIG = init_engine_from_config({"model_id": "org/model", "llm_engine": "echo", "accelerator_type": "CPU"})
JOB = ReplicaJob("run", CONFIG, PromptJob(parse_row=dict, tokenizer="none"), None, deduplicate=False)
WAIT_S = 60.0  # for a simulation that takes well under a second: a gate that never opens, in place of a hanging test


class Cluster:
    """Replicas as Ray restarts them: a block is out when all its rows are answered, else all of it is tried again.

    Every replica owns its blocks, since the retry of an actor's task goes to the same actor. All replicas live at the
    same time; a life ends with the engine's death, and the next lives begin when every replica has died or is done, so
    that no replica is told its suspects before another one's death.
    """

    def __init__(
        self, replicas: list[list[str]], poison: Iterable[str], seqs: int, failing: Iterable[str] = (), block: int = 16
    ) -> None:
        self.poison, self.failing, self.seqs = set(poison), set(failing), seqs
        self.blocks = [[rows[at : at + block] for at in range(0, len(rows), block)] for rows in replicas]
        self.monitor = RunMonitor({})
        self.results: dict[str, list[str]] = {}
        self.deaths, self.lives = 0, 0
        self.beside: list[set[bytes]] = []  # the rows in the engine at each death

    async def run(self, at_most: int, random_order: random.Random) -> None:
        while any(self.blocks):
            assert self.deaths <= at_most, f"more than {at_most} deaths"
            told = []
            for number, blocks in enumerate(self.blocks):
                if not blocks:
                    continue
                self.lives += 1
                key = f"life-{self.lives}"
                random_order.shuffle(blocks)
                for block in blocks:
                    random_order.shuffle(block)
                told.append(
                    (number, key, self.monitor.register(key, None, ReplicaState(actor_id=f"actor-{number}").plain()))
                )
            died = await asyncio.gather(*(Life(self, *each).live() for each in told))
            for (number, key, _), (in_engine, answered) in zip(told, died, strict=True):
                if in_engine is None:
                    continue
                self.deaths += 1
                self.beside.append(in_engine)
                self.monitor.died(
                    key, ReplicaState(actor_id=f"actor-{number}", rows=answered).plain(), list(in_engine), "last words"
                )
                assert self.monitor._stop is None, self.monitor._stop


class Life:
    """One engine from its start to its death or to the end of the work."""

    def __init__(self, cluster: Cluster, number: int, key: str, told: dict) -> None:
        self.cluster, self.number = cluster, number
        self.slots, self.turns = asyncio.Semaphore(cluster.seqs), random.Random(number)
        self.max_model_len, self.vocab_size = 100, None
        self.answering = Answering(self, JOB, Told(**told), self.dies)
        self.died: asyncio.Future = asyncio.get_running_loop().create_future()
        self.answered = 0

    async def live(self) -> tuple[set[bytes] | None, int]:
        mine = self.cluster.blocks[self.number]
        work = asyncio.gather(*(self.block(block, mine) for block in list(mine)))
        await asyncio.wait([work, self.died], return_when=asyncio.FIRST_COMPLETED)
        if not self.died.done():
            work.result()
            return None, self.answered
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return self.died.result(), self.answered

    async def block(self, block: list[str], mine: list[list[str]]) -> None:
        answers = await asyncio.gather(*(self.answering.answer(as_row(row)) for row in block))
        mine.remove(block)
        for row, answer in zip(block, answers, strict=True):
            self.cluster.results.setdefault(row, []).append(
                "answered"
                if answer.error is None
                else "guilty"
                if "makes the engine crash" in answer.error
                else "failed"
            )

    async def generate(self, request: Request) -> Reply:
        row = "".join(map(chr, request.prompt_token_ids))
        if row in self.cluster.failing:
            raise ValueError("a bad request")
        async with self.slots:
            for _ in range(1 + self.turns.randrange(3)):
                await asyncio.sleep(0)
            if row in self.cluster.poison and not self.died.done():
                raise EngineDied("it died of this row")
            if self.died.done():
                await asyncio.Event().wait()  # a dead engine answers nothing
        self.answered += 1
        return Reply("text", 1, "stop")

    def dies(self, reason: str) -> None:
        self.died.set_result(set(self.answering.computing(self.cluster.seqs)))


def as_row(text: str) -> dict[str, Any]:
    return {
        run_columns.TOKEN_IDS: np.array(list(map(ord, text)), dtype=np.int32),
        run_columns.STAGE_ERROR: None,
        run_columns.REQUEST: None,
    }


def key_of(row: str) -> bytes:
    return prompt_key(list(map(ord, row)), None)


def simulate(
    replicas: list[list[str]], poison: Iterable[str], seqs: int, seed: int, at_most: int | None = None, **kwargs
) -> Cluster:
    poison = set(poison)
    cluster = Cluster(replicas, poison, seqs, **kwargs)
    bound = DEATHS_EACH * len(poison) if at_most is None else at_most
    asyncio.run(asyncio.wait_for(cluster.run(bound, random.Random(seed)), WAIT_S))
    failing = cluster.failing
    expected = {
        row: ["guilty" if row in poison else "failed" if row in failing else "answered"] * count
        for row, count in Counter(row for rows in replicas for row in rows).items()
    }
    assert cluster.results == expected
    assert cluster.deaths <= bound
    return cluster


def rows(number: int, of: str = "row") -> list[str]:
    return [f"{of} {n}" for n in range(number)]


@pytest.mark.parametrize("seqs", [1, 8, AT_ONCE, 200])
@pytest.mark.parametrize("seed", range(3))
def test_each_poison_row_is_found_and_no_other(seqs: int, seed: int) -> None:
    poison = random.Random(seed).sample(rows(300), 4)
    simulate([rows(300)], poison, seqs, seed)


@pytest.mark.parametrize("seqs", [1, 8, 200])
def test_no_poison_no_death(seqs: int) -> None:
    assert simulate([rows(100)], [], seqs, seed=0).deaths == 0


@pytest.mark.parametrize(("seqs", "deaths"), [(1, 2), (8, 2), (AT_ONCE, 2), (200, 3)])
def test_how_many_deaths_one_row_costs(seqs: int, deaths: int) -> None:
    """Two where the engine holds no more than are tried at once, else three."""
    cluster = simulate([rows(300)], ["row 7"], seqs, seed=1)
    assert cluster.deaths == deaths
    assert cluster.beside[-1] == {key_of("row 7")}, "condemned only when it was alone"
    assert all(len(beside) <= limit for beside, limit in zip(cluster.beside, (seqs, AT_ONCE, 1), strict=False))


@pytest.mark.parametrize("poison", [["row 20", "row 21"], ["row 0", "row 299"], ["row 299"], ["row 0"]])
def test_neighbours_and_the_ends(poison: list[str]) -> None:
    for seed in range(3):
        simulate([rows(300)], poison, 64, seed)


def test_equal_prompts_are_one_row_with_many_places() -> None:
    duplicates = [*rows(60), "row 3", "row 3", *rows(60, "other"), "row 3"]
    for seqs in (1, 8, 200):
        simulate([duplicates], ["row 3"], seqs, seed=2)


def test_a_request_that_fails_gives_its_place_back() -> None:
    """A suspect whose request ends in an ordinary error must not keep the gate shut."""
    failing = rows(300)[:150]
    for seqs in (8, 200):
        simulate([rows(300)], ["row 160", "row 200"], seqs, seed=3, failing=failing)


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("seqs", [8, 200])
def test_replicas_that_die_at_the_same_time_do_not_forget_each_other(replicas: int, seqs: int) -> None:
    """Each has a poison row of its own. What one finds out must not undo what another has."""
    work = [rows(150, f"replica {number} row") for number in range(replicas)]
    simulate(work, [own[70] for own in work], seqs, seed=4)


def test_a_suspect_that_never_comes_holds_nobody_up() -> None:
    async def scenario() -> None:
        gate = Gate({b"elsewhere": 1})
        assert [await gate.enter(b"a"), await gate.enter(b"b")] == [False, False]

    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_a_late_suspect_waits_for_the_engine_to_empty_and_runs_without_company() -> None:
    async def scenario() -> None:
        gate, order = Gate({b"suspect": 1, b"second": 1}), []

        async def through(key: bytes, leave: asyncio.Event) -> None:
            suspect = await gate.enter(key)
            order.append(key)
            await leave.wait()
            await gate.leave(suspect)

        async def start(key: bytes) -> tuple[asyncio.Task, asyncio.Event]:
            leave = asyncio.Event()
            task = asyncio.create_task(through(key, leave))
            for _ in range(5):
                await asyncio.sleep(0)
            return task, leave

        first = await start(b"other")
        suspect, second = await start(b"suspect"), await start(b"second")
        late = await start(b"late other")
        assert order == [b"other"], "the suspect waits for the one inside, and who comes later for the suspect"
        for number, (task, leave) in enumerate((first, suspect, second, late), start=1):
            leave.set()
            await task
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(order) == min(number + 1, 4)
        assert order == [b"other", b"suspect", b"second", b"late other"]

    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_no_more_suspects_at_once_than_allowed() -> None:
    async def scenario() -> int:
        keys = [bytes([n]) for n in range(100)]
        gate, inside, most = Gate(dict.fromkeys(keys, 7)), 0, 0

        async def through(key: bytes) -> None:
            nonlocal inside, most
            suspect = await gate.enter(key)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            await gate.leave(suspect)

        await asyncio.gather(*(through(key) for key in keys))
        return most

    assert asyncio.run(asyncio.wait_for(scenario(), WAIT_S)) == 7


def test_a_row_that_was_alone_by_chance_is_not_condemned_at_the_first_death() -> None:
    suspects = Suspects()
    suspects.engine_died("actor", [b"a"], "words")
    assert not suspects.guilty
    suspects.engine_died("actor", [b"b"], "words")
    assert not suspects.guilty, "b was not in the engine before"
    suspects.engine_died("another", [b"b"], "words")
    assert not suspects.guilty, "nor in that one"
    suspects.engine_died("actor", [b"a"], "the last words")
    assert suspects.guilty == {b"a": "the last words"}
    assert suspects.of("actor") == {b"a": 1, b"b": 1} and suspects.of("new") == {}


def test_a_death_in_between_does_not_undo_what_is_known() -> None:
    suspects = Suspects()
    first, second = [b"a%d" % n for n in range(100)], [b"b%d" % n for n in range(100)]
    suspects.engine_died("actor", first, "")
    suspects.engine_died("actor", second, "")
    assert suspects.of("actor") == dict.fromkeys(first + second, AT_ONCE)
    suspects.engine_died("actor", first[:20], "")
    assert suspects.of("actor") == dict.fromkeys(first[20:] + second, AT_ONCE) | dict.fromkeys(first[:20], 1)
    suspects.engine_died("actor", first[:1], "words")
    assert list(suspects.guilty) == first[:1]


def test_a_suspect_that_goes_alone_does_not_join_those_that_may_go_together() -> None:
    async def scenario() -> None:
        gate, entered = Gate({b"many 1": 3, b"many 2": 3, b"alone": 1, b"many 3": 3}), []

        async def enter(key: bytes) -> None:
            await gate.enter(key)
            entered.append(key)

        async def settle() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(enter(key)) for key in (b"many 1", b"alone", b"many 2")]
        await settle()
        assert entered == [b"many 1", b"many 2"]
        await gate.leave(True)
        await settle()
        assert len(entered) == 2
        await gate.leave(True)
        await settle()
        assert entered[2:] == [b"alone"]
        tasks.append(asyncio.create_task(enter(b"many 3")))
        await settle()
        assert len(entered) == 3, "and nobody joins it"
        await gate.leave(True)
        await settle()
        assert entered[3:] == [b"many 3"] and all(task.done() for task in tasks)

    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_prompt_key_is_of_the_prompt_and_its_settings() -> None:
    key = prompt_key([1, 2, 3], None)
    assert key == prompt_key([1, 2, 3], "") != prompt_key([1, 2], None)
    assert key != prompt_key([1, 2, 3], '{"model": "lora"}')
    assert len({prompt_key([n], None) for n in range(1000)}) == 1000


def test_what_a_guilty_rows_error_says() -> None:
    text = guilty_error("first\n\nsecond\nthird\nlast: CUDA error\n")
    assert text.startswith("engine: this row makes the engine crash") and text.endswith(
        "second | third | last: CUDA error"
    )
    assert "\n" not in guilty_error("a\nb") and guilty_error("")
