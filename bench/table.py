"""Results of contenders, as tables; and what keeps two results from being compared. Nothing here needs Ray or vLLM."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

BASELINE = "LLM.generate"
ORDER = (BASELINE, "RayLLMBatch", "ray.data.llm")
SETTINGS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "dtype",
    "kv_cache_tokens",
    "quantization",
    "speculative",
    "async_scheduling",
)
# What is free when an engine measures the GPU's memory varies by a little.
KV_CACHE_TOLERANCE = 0.02
Result = dict[str, Any]


def summary(results: Iterable[Result]) -> str:
    """One row a contender: medians over its runs; ratios are medians of the ratios within each pair.

    `ratio` compares output tokens over engine_s, `ratio (wall)` over wall_s; bench.contenders says what they measure.
    """
    by_name = _by_name(results)
    baseline = {result["pair"]: result for result in by_name.get(BASELINE, [])}
    rows = []
    for name, runs in by_name.items():
        paired = [(run, baseline[run["pair"]]) for run in runs if run["pair"] in baseline]
        rows.append(
            [
                name,
                str(len(runs)),
                *(
                    f"{median(run[key] for run in runs):,.0f}"
                    for key in ("rows", "failed", "input_tokens", "output_tokens")
                ),
                *(f"{median(run[key] for run in runs):,.1f}" for key in ("start_s", "engine_s", "wall_s", "job_s")),
                f"{median(speed(run) for run in runs):,.0f}",
                _ratios([speed(run) / speed(base) for run, base in paired]),
                _ratios([speed(run, "wall_s") / speed(base, "wall_s") for run, base in paired]),
            ]
        )
    return markdown(
        [
            "contender",
            "runs",
            "rows",
            "failed",
            "input tokens",
            "output tokens",
            "start s",
            "engine s",
            "wall s",
            "job s",
            "output tokens/s",
            "ratio",
            "ratio (wall)",
        ],
        rows,
    )


def settings(results: Iterable[Result]) -> str:
    """What each engine resolved, one row a contender; "-" where it does not say."""
    rows = []
    for name, runs in _by_name(results).items():
        rows.append([name, *(_shown(runs[0]["settings"].get(key)) for key in SETTINGS)])
    return markdown(["contender", *SETTINGS], rows)


def cpu(results: Iterable[Result]) -> str:
    """CPU cores that each kind of process kept busy while its engine generated (median over runs)."""
    rows = []
    for name, runs in _by_name(results).items():
        kinds = {kind for run in runs for kind in run.get("cores", {})}
        busy = {kind: median(run.get("cores", {}).get(kind, 0.0) for run in runs) for kind in kinds}
        rows += [
            [name, kind, f"{cores:.2f}"]
            for kind, cores in sorted(busy.items(), key=lambda item: -item[1])
            if cores >= 0.01
        ]
    return markdown(["contender", "process", "cores"], rows)


def differences(results: Iterable[Result]) -> list[str]:
    """Why these results must not be compared: settings, rows or token counts that differ, and failed rows."""
    by_name = _by_name(results)
    found = []
    for name, runs in by_name.items():
        found += [
            f"{name}, pair {run['pair']}: {run['failed']} row(s) failed{_because(run)}" for run in runs if run["failed"]
        ]
    names = list(by_name)
    every = [run for runs in by_name.values() for run in runs]
    for key in SETTINGS:
        values: dict[str, Any] = {}
        for run in every:  # each run's own: an engine that is started again may resolve something else
            if run["settings"].get(key) is not None or key == "speculative":
                values[f"{run['contender']}, pair {run['pair']}"] = run["settings"].get(key)
        if not _same(key, list(values.values())):
            by_value: dict[str, str] = {}
            for where, value in values.items():
                by_value.setdefault(_shown(value), where)
            found.append(f"{key} differs: " + "; ".join(f"{value} ({where})" for value, where in by_value.items()))
    if names:
        first = by_name[names[0]][0]
        for run in every:
            found += _token_differences(first, run)
    return found


def speed(result: Result, seconds: str = "engine_s") -> float:
    """Output tokens a second."""
    return result["output_tokens"] / result[seconds]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _token_differences(first: Result, run: Result) -> list[str]:
    who = f"{run['contender']}, pair {run['pair']}"
    expected = {i: (given, made) for i, given, made in first["tokens"]}
    got = {i: (given, made) for i, given, made in run["tokens"]}
    found = []
    if missing := sorted(set(expected) ^ set(got)):
        found.append(
            f"{who}: {len(missing)} row(s) are in one result and not in the other, the first with id {missing[0]}"
        )
    for index, what in enumerate(("input", "output")):
        wrong = [i for i in sorted(set(expected) & set(got)) if expected[i][index] != got[i][index]]
        if wrong:
            row = wrong[0]
            found.append(
                f"{who}: {len(wrong)} row(s) have other {what} token counts than {first['contender']}'s; "
                f"row {row}: {got[row][index]} instead of {expected[row][index]}"
            )
    return found


def _by_name(results: Iterable[Result]) -> dict[str, list[Result]]:
    named: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: (ORDER.index(r["contender"]), r["pair"])):
        named.setdefault(result["contender"], []).append(result)
    return named


def _same(key: str, values: list[Any]) -> bool:
    if key == "kv_cache_tokens" and values:
        return max(values) - min(values) <= KV_CACHE_TOLERANCE * max(values)
    return all(value == values[0] for value in values)


def _ratios(values: list[float]) -> str:
    if not values:
        return "-"
    text = f"{median(values):.3f}"
    return text if len(values) == 1 else f"{text} ({min(values):.3f}-{max(values):.3f})"


def _shown(value: Any) -> str:
    return (
        "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    )


def _because(run: Result) -> str:
    return f", the first: {run['first_error']}" if run.get("first_error") else ""
