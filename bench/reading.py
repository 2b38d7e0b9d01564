"""How fast `dataset_file` is read, beside what it was read with before: Arrow's and Ray Data's own readers, which guess.

    python -m bench.reading                    # two shapes of rows, small and large, in turns; some five minutes on two cores
    python -m bench.reading --rounds 5 --shapes articles

  in memory   files that the driver reads: pyarrow.json.read_json of all bytes at once, against read_dataset_file's own reading
  in tasks    larger ones: ray.data.read_json(...).materialize(), against read_dataset_file(...).materialize()

Both of a pair are timed in one process, one after the other, `--rounds` times; ratios are of the medians.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def article(draw: random.Random, n: int) -> dict[str, Any]:
    """4 KB of text, and an id."""
    return {"id": n, "article": " ".join(draw.choice(WORDS) for _ in range(680))}


def record(draw: random.Random, n: int) -> dict[str, Any]:
    """Ten small fields, nested ones among them."""
    return {
        "id": n,
        "name": f"customer {n}",
        "score": draw.random(),
        "active": bool(n % 2),
        "country": draw.choice(["DE", "FR", "PL"]),
        "tags": ["a", "b"],
        "address": {"street": "Main", "number": n % 99},
        "visits": draw.randrange(1000),
        "note": None,
        "text": "short text about it",
    }


WORDS = ["council", "harbour", "storm", "opened", "a", "the", "library", "of", "and", "yesterday", "größe", "summary"]
SHAPES = {"articles": (article, 10_000, 40_000), "records": (record, 150_000, 600_000)}  # rows in memory, rows in tasks


def write(path: Path, shape: Callable[[random.Random, int], dict[str, Any]], rows: int) -> None:
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for n in range(rows):
            file.write(json.dumps(shape(draw, n), ensure_ascii=False) + "\n")


def before_in_memory(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.json

    content = path.read_bytes()
    options = pyarrow.json.ReadOptions(block_size=min(max(len(content), 1 << 20), (1 << 31) - 1))
    return pyarrow.json.read_json(pa.BufferReader(content), read_options=options).num_rows


def now_in_memory(path: Path) -> int:
    from rayllm_batch.data import dataset_file
    from rayllm_batch.data.data_files import find_files
    from rayllm_batch.data.file_part import Reader
    from rayllm_batch.data.read_options import ReadOptions

    files = find_files(path)
    return dataset_file._read_local(
        files, Reader(files.fs, files.format, ReadOptions()), [path.stat().st_size]
    ).num_rows


def before_in_tasks(path: Path) -> int:
    import ray.data

    return ray.data.read_json(str(path), file_extensions=None).materialize().count()


def now_in_tasks(path: Path) -> int:
    from rayllm_batch.data.dataset_file import read_dataset_file

    return read_dataset_file(path).materialize().count()


def pair(before: Callable[[Path], int], now: Callable[[Path], int], path: Path, rows: int, rounds: int) -> str:
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    for name, read in (("before", before), ("now", now)):  # once for imports and the page cache
        assert read(path) == rows, name
    for number in range(rounds):
        for name, read in sorted({"before": before, "now": now}.items(), reverse=bool(number % 2)):
            began = time.perf_counter()
            assert read(path) == rows
            seconds[name].append(time.perf_counter() - began)
    size = path.stat().st_size / 1e6
    was, is_ = (statistics.median(seconds[name]) for name in ("before", "now"))
    return f"{rows / was:,.0f} | {rows / is_:,.0f} | {size / was:,.0f} | {size / is_:,.0f} | {was / is_:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    args = parser.parse_args()
    print(
        "| rows | where | rows/s before | rows/s now | MB/s before | MB/s now | now / before |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in args.shapes:
            shape, few, many = SHAPES[name]
            path = Path(folder) / f"{name}.jsonl"
            write(path, shape, few)
            print(
                f"| {few:,} {name} | in memory | {pair(before_in_memory, now_in_memory, path, few, args.rounds)} |",
                flush=True,
            )
        import ray

        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        for name in args.shapes:
            shape, _, many = SHAPES[name]
            path = Path(folder) / f"{name}-large.jsonl"
            write(path, shape, many)
            print(
                f"| {many:,} {name} | in tasks | {pair(before_in_tasks, now_in_tasks, path, many, args.rounds)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
