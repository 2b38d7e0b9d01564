"""The end of a run over several engines, simulated: how long GPUs stand idle between the first engine that has nothing left
and the last answer.

    python -m bench.tail

Blocks of rows go to the engine with the fewest, as Ray Data hands them out, so many at once and waiting as the plan of a run
says (rayllm_batch/run/plan.py); an engine computes up to `max_num_seqs` rows at once, and a block keeps its place until its
slowest row is done. A step takes 3 ms and 19 us a row in it: 1B on an H100 (bench/RESULTS.md: 22.3, 10.2 and 6.8 ms of
1,024, 512 and 256 rows). Prompts cost nothing, so rows are at hand at once. "Idle" is of all engines' time; "of N" the rate of
N engines over N times that of one with its share of the rows. "Queue of 6" is the rule before 2026-11-28.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rayllm_batch import init_engine_from_config
from rayllm_batch.run.plan import QUEUED_BLOCKS, Plan

STEP_S, STEP_S_A_ROW = 0.003, 19e-6
SEQS = 1024
Block = list[int]  # the output tokens of each row


@dataclass
class Engine:
    """now: its clock. steps: computed. running: by the step that ends them, with the rows that their block still waits for."""

    places: int
    now: float
    steps: float = 0.0
    ended: float = 0.0
    blocks: int = 0
    queued: deque[Block] = field(default_factory=deque)
    waiting: deque[tuple[int, list[int]]] = field(default_factory=deque)
    running: list[tuple[float, int, list[int]]] = field(default_factory=list)
    number: itertools.count = field(default_factory=itertools.count)

    @property
    def has(self) -> int:
        return self.blocks + len(self.queued)

    def fill(self) -> None:
        while self.queued and self.blocks < self.places:
            block = self.queued.popleft()
            left = [len(block)]
            self.waiting.extend((tokens, left) for tokens in block)
            self.blocks += 1
        while self.waiting and len(self.running) < SEQS:
            tokens, left = self.waiting.popleft()
            heapq.heappush(self.running, (self.steps + tokens, next(self.number), left))

    def next_end(self) -> float:
        return self.now + (self.running[0][0] - self.steps) * (STEP_S + STEP_S_A_ROW * len(self.running))

    def advance(self) -> None:
        self.now, self.steps = self.next_end(), self.running[0][0]
        while self.running and self.running[0][0] <= self.steps:
            left = heapq.heappop(self.running)[2]
            left[0] -= 1
            self.blocks -= not left[0]
        self.ended = self.now


def simulate(rows: Sequence[int], block: int, places: int, queued: int, ready: Sequence[float]) -> list[float]:
    """When each engine had nothing left. rows: their output tokens. ready: when each engine is."""
    blocks = deque(list(rows[i : i + block]) for i in range(0, len(rows), block))
    engines, now = [Engine(places, at) for at in ready], 0.0
    while True:
        while blocks and (free := [one for one in engines if one.now <= now and one.has < places + queued]):
            min(free, key=lambda one: one.has).queued.append(blocks.popleft())
        for one in engines:
            one.fill()
            if not one.running and one.now < now:
                one.now = now
        events = [(one.next_end(), i) for i, one in enumerate(engines) if one.running]
        events += [(one.now, i) for i, one in enumerate(engines) if blocks and not one.running and one.now > now]
        if not events:
            return [one.ended for one in engines]
        now, i = min(events)
        if engines[i].running:
            engines[i].advance()


def even(draw: random.Random) -> int:
    return draw.randint(32, 480)


def mixed(draw: random.Random) -> int:
    return min(4000, max(32, int(draw.lognormvariate(5.5, 1.0))))


def plan_of(engines: int) -> Plan:
    override = {"engine_kwargs": {"max_num_seqs": SEQS}}
    return Plan(init_engine_from_config("configs/llama-3.1-8b-h100-fp8.yaml", override=override), (engines, engines))


@functools.cache  # most rows have the queue that they had before
def row(engines: int, total: int, length: str, apart_s: float, queued: int) -> tuple[float, float, float]:
    """Seconds, idle share, rate of N."""
    draw = random.Random(1)
    rows = [{"32 to 480": even, "32 to 4,000": mixed}[length](draw) for _ in range(total)]
    layout = plan_of(engines).rows_a_block(total), plan_of(engines).blocks_in_flight(total)
    ready = [apart_s * i / max(1, engines - 1) for i in range(engines)]
    ends = simulate(rows, *layout, queued, ready)
    alone = simulate(rows[: total // engines], *layout, queued, [0.0])[0]
    last = max(ends)
    return last, sum(last - end for end in ends) / (engines * last), alone / last


def main() -> int:
    print(
        "| engines | rows | output tokens | ready within, s | seconds | idle | of N | queue of 6: seconds | idle | of N |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for engines, total, length in (
        (2, 1800, "32 to 480"),
        (2, 5000, "32 to 480"),
        (2, 20_000, "32 to 480"),
        (2, 200_000, "32 to 480"),
        (2, 20_000, "32 to 4,000"),
        (2, 120_000, "32 to 4,000"),
        (8, 20_000, "32 to 480"),
        (8, 480_000, "32 to 4,000"),
        (64, 200_000, "32 to 480"),
        (64, 3_800_000, "32 to 4,000"),
    ):
        for apart_s in (0.5, 5.0):
            plan = plan_of(engines)
            before = min(QUEUED_BLOCKS, (plan.blocks_in_flight(total) + 1) // 2)
            found = [row(engines, total, length, apart_s, queued) for queued in (plan.blocks_queued(total), before)]
            cells = (f"{seconds:.1f} | {idle:.1%} | {of_n:.2f}" for seconds, idle, of_n in found)
            print(f"| {engines} | {total:,} | {length} | {apart_s:g} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
