"""Is the estimate right? Estimates a job from some of its rows, then runs it, and compares.

    python -m bench.estimate                                  # 640 rows from 64, the demo model on CPU: about 10 minutes
    python -m bench.estimate --config configs/llama-3.1-8b-a10g.yaml --rows 6400 --sample-rows 640

The rows are the sample articles with numbers of their own before them, so that no two are equal; answers end where the
model ends them. The run uses the engines that the estimate started: starting up is in neither figure.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def articles(count: int) -> list[dict[str, Any]]:
    """So many different articles, of the lengths of the sample articles."""
    lines = (ROOT / "assets" / "sample_articles.jsonl").read_text(encoding="utf-8").splitlines()
    given, made = [json.loads(line)["article"] for line in lines], []
    for number in range(count):
        paragraphs = given[number % len(given)].split("\n\n")
        random.Random(number).shuffle(paragraphs)
        # The number comes first: rows that begin alike would find each other's work in the prefix cache, as a job's rarely do.
        made.append({"id": number, "article": f"No. {number}. " + "\n\n".join(paragraphs)})
    random.Random(0).shuffle(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "demo-cpu.yaml"))
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--sample-rows", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=150)
    parser.add_argument("--report", help="write the run's report to this file")
    args = parser.parse_args()

    import ray.data

    from rayllm_batch import CNNDailySummary, RayLLMBatch, init_engine_from_config

    class Articles(CNNDailySummary):
        def load_dataset(self) -> ray.data.Dataset:
            return ray.data.from_items(articles(args.rows))

    workload = Articles(sampling_params={"max_tokens": args.max_tokens, "temperature": 0.0})
    batch = RayLLMBatch(init_engine_from_config(args.config), workload)
    began = time.time()
    said = batch.estimate(sample_rows=args.sample_rows)
    print(f"{said}\nestimated in {time.time() - began:.0f} s, starting up included")
    began = time.time()
    batch.run()
    took = time.time() - began
    if args.report:
        batch.report(args.report)
    if (busy := batch.metrics.mean_gpu_utilization) is not None:
        print(f"mean GPU utilization {busy:.2f}")
    held = "within" if said.low_s <= took <= said.high_s else "outside"
    done = batch.metrics
    print(
        f"| rows | tried | run said | run took | said/took | interval | output tokens said/had |\n|---|---|---|---|---|---|---|\n"
        f"| {args.rows:,} | {said.sample_rows} | {said.run_s:.0f} s | {took:.0f} s | {said.run_s / took:.2f} | {held} {said.low_s:.0f}-{said.high_s:.0f} s | "
        f"{said.output_tokens / done.num_generated_tokens:.2f} |"
    )


if __name__ == "__main__":
    main()
