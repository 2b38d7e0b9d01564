"""A run too large to be tried here: how long it takes, what it loses, and what the driver and the storage have to carry.

    python -m bench.simulation              # the measured small runs again, then 100 million rows on 64 GPUs of 8 nodes

Second by second: the driver hands blocks on as fast as its one core allows, the CPUs tokenise, each engine that is ready
takes rows and answers them, nodes go and come back. What it starts from was measured (bench/RESULTS.md, with that file's
words beside each figure); none was fitted. A row that was in an engine when its node went is answered again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from statistics import mean

# Of one engine, measured by itself.
DRIVER_S_A_BLOCK = 0.050  # "the driver takes some 50 ms of CPU for each" (blocks), whatever their size
DRIVER_S_A_ROW = 0.00016  # "the driver 0.16" CPU-ms a row
PROMPT_S_A_ROW = 0.0010  # "the 1.0 core-ms a row that the prompts' stage takes", of articles of 4 KB
DRIVER_BYTES_A_BLOCK = 5_000  # "5 KB a block" that Ray keeps
ID_BYTES_A_ROW = 24  # a row's id and digest, in the driver's memory until the end
PART_S, PART_BYTES = 30.0, 64 << 20


@dataclass(frozen=True)
class Run:
    """rates: output tokens/s of one GPU with so many of its engines ready. ready_s: when each engine of a GPU is.

    longest_s: of the last row, from its start. before_s: Ray's start and the look at the rows.
    mtbf_h: hours until a node goes, on average; 0 for never. replaced_s: until another is there, its engines not yet ready.
    """

    rows: int
    output_tokens: float
    rates: tuple[float, ...]
    ready_s: tuple[float, ...]
    gpus: int = 1
    gpus_a_node: int = 8
    cores_a_node: int = 16
    block: int = 512
    seqs: int = 1024
    before_s: float = 0.0
    longest_s: float = 5.0
    mtbf_h: float = 0.0
    replaced_s: float = 300.0
    bytes_a_row: float = 600.0


@dataclass
class Outcome:
    seconds: float = 0.0
    lost_nodes: int = 0
    answered_again: float = 0.0
    driver_cores: float = 0.0
    prompt_cores: float = 0.0
    driver_mib: float = 0.0
    parts: float = 0.0
    bytes_s: float = 0.0
    bound_by: dict[str, float] = field(default_factory=dict)


def simulate(run: Run, seed: int = 0) -> Outcome:
    draw, out = random.Random(seed), Outcome()
    nodes = max(1, -(-run.gpus // run.gpus_a_node))
    gpus = [run.gpus // nodes + (i < run.gpus % nodes) for i in range(nodes)]
    up_at, goes_at = [run.before_s] * nodes, [_until_loss(run, draw) for _ in range(nodes)]
    done, now, driver_s = 0.0, 0.0, 0.0
    of_driver = 1.0 / (DRIVER_S_A_BLOCK / run.block + DRIVER_S_A_ROW)
    of_cpus = nodes * run.cores_a_node / PROMPT_S_A_ROW if run.cores_a_node else float("inf")
    while done < run.rows:
        now += 1.0
        for i in range(nodes):
            if now >= goes_at[i]:
                # What its engines were computing, half done on average; what waited in them was not begun.
                engines = sum(ready <= now - up_at[i] for ready in run.ready_s)
                again = min(done, gpus[i] * engines * run.seqs / 2)
                done, out.answered_again, out.lost_nodes = done - again, out.answered_again + again, out.lost_nodes + 1
                up_at[i] = now + run.replaced_s
                goes_at[i] = up_at[i] + _until_loss(run, draw)
        speeds = [gpus[i] * _rate(run, now - up_at[i]) / run.output_tokens for i in range(nodes)]
        could = {"engines": sum(speeds), "driver": of_driver, "tokenising": of_cpus}
        least = min(could, key=lambda name: could[name])
        out.bound_by[least] = out.bound_by.get(least, 0.0) + 1.0
        done += could[least]
        driver_s += could[least] / of_driver
    over = (done - run.rows) / max(could[least], 1e-9)
    out.seconds = now - over + run.longest_s
    out.driver_cores = driver_s / out.seconds
    out.prompt_cores = run.rows * PROMPT_S_A_ROW / out.seconds
    out.driver_mib = (run.rows / run.block * DRIVER_BYTES_A_BLOCK + run.rows * ID_BYTES_A_ROW) / 2**20
    out.bytes_s = run.rows * run.bytes_a_row / out.seconds
    out.parts = max(out.seconds / PART_S, run.rows * run.bytes_a_row / PART_BYTES)
    return out


def _until_loss(run: Run, draw: random.Random) -> float:
    return draw.expovariate(1 / (run.mtbf_h * 3600)) if run.mtbf_h else float("inf")


def _rate(run: Run, up_s: float) -> float:
    ready = sum(at <= up_s for at in run.ready_s)
    return run.rates[ready - 1] if ready else 0.0


# Measured (bench/RESULTS.md), and the seconds that it took. Of the first two, the rates are those that the run showed while
# one, two or three of its engines were ready.
B1_ONE, B1_TWO, B1_THREE = mean((25_600, 33_400)), mean((53_000, 64_000)), mean((57_000, 66_000))
MEASURED = {
    "1B, 20,000 rows, two engines, ready 81 s apart": (
        Run(20_000, 255, (mean((21_500, 22_000)), mean((47_200, 53_000))), (0.0, 81.0), longest_s=5),
        150.0,
    ),
    "1B, 62,000 rows, three engines, ready after 28, 60 and 94 s": (
        Run(62_000, 256, (B1_ONE, B1_TWO, B1_THREE), (28.0, 60.0, 94.0), before_s=12, longest_s=5),
        316.0,
    ),
    # The rate is that of another run, of 2,000 rows; "15 to 18 s pass before the first row is there".
    "8B bf16, 1,200 rows of 129 out": (Run(1_200, 129, (4_777.0,), (0.0,), before_s=16, longest_s=4), 52.3),
    # Likewise, of 1,200 rows; 2 s are Ray Data's start.
    "8B fp8, 1,600 rows of 130 out, kept engines": (Run(1_600, 130, (6_017.0,), (0.0,), before_s=2, longest_s=1), 36.7),
}

# As the defaults have it: 8B fp8 an engine a GPU (bench/RESULTS.md: 5,913 output tokens/s at 795 in, 130 out), cold 111 s.
LARGE = Run(100_000_000, 130, (5_913.0,), (111.0,), gpus=64, before_s=30, longest_s=10, cores_a_node=64)
SMALL_MODEL = replace(LARGE, output_tokens=254, rates=(B1_ONE, B1_TWO, B1_THREE), ready_s=(28.0, 60.0, 94.0))


def main() -> int:
    print("| measured run | took, s | simulated, s | simulated / measured |\n|---|---|---|---|")
    worst = 0.0
    for said, (run, took) in MEASURED.items():
        seconds = simulate(replace(run, cores_a_node=0)).seconds
        worst = max(worst, abs(seconds / took - 1))
        print(f"| {said} | {took:g} | {seconds:.0f} | {seconds / took:.2f} |")
    print(
        "\n| 100 million rows, 64 GPUs, 8 nodes | hours | nodes lost | answered again | driver, cores | tokenising, cores | "
        "driver, MiB of ids and blocks | parts | MB/s written | bound by |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for said, run in {
        "8B fp8, no losses": LARGE,
        "8B fp8, each node lost every 6 hours": replace(LARGE, mtbf_h=6),
        "8B fp8, each node lost every hour": replace(LARGE, mtbf_h=1),
        "8B fp8, blocks of 64 rows": replace(LARGE, block=64),
        "1B, three engines a GPU": SMALL_MODEL,
        "1B, three engines a GPU, blocks of 64 rows": replace(SMALL_MODEL, block=64),
    }.items():
        out = simulate(run)
        bound = ", ".join(f"{name} {share / sum(out.bound_by.values()):.0%}" for name, share in out.bound_by.items())
        print(
            f"| {said} | {out.seconds / 3600:.1f} | {out.lost_nodes} | {out.answered_again:,.0f} | {out.driver_cores:.2f} "
            f"| {out.prompt_cores:.1f} | {out.driver_mib:,.0f} | {out.parts:,.0f} | {out.bytes_s / 1e6:.1f} | {bound} |"
        )
    return 1 if worst > 0.15 else 0


if __name__ == "__main__":
    raise SystemExit(main())
