"""Of one step of the bare engine, how much is the GPU's? The rest is its process's Python, while the GPU waits.

    python -m bench.step_time --workload 1b --requests 1024

The same requests are answered with few and with many tokens each, without a profiler (whole time) and with torch's (the time of
all kernels). What the additional steps took, divided by their number, is the time of a step: reading the prompts, and the
profiler's own slowing of the host, are in neither.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import models, rows

FEW, MANY = 8, 40  # tokens a request
WARM_UP, PLAIN = 1, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.step_time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=rows.WORKLOADS, default="1b")
    parser.add_argument("--requests", type=int, nargs="+", default=[1024])
    parser.add_argument("--engine-kwargs", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--scratch", default="/tmp/bench-scratch")
    options = parser.parse_args()
    work = rows.WORKLOADS[options.workload]
    model = models.make(work.shape, Path(options.scratch) / "models")
    _, ids = rows.write(work, max(options.requests), model, Path(options.scratch) / f"step-{options.workload}")

    import pyarrow.parquet as pq
    from vllm import LLM

    traces = Path(tempfile.mkdtemp(prefix="traces-"))
    # A cache of prefixes would keep the prompts' work from the second time on; what is measured are the steps after it.
    kwargs = {**work.engine_kwargs, "enable_prefix_caching": True, **options.engine_kwargs}
    llm = LLM(
        model=str(model),
        disable_log_stats=True,
        **kwargs,
        profiler_config={"profiler": "torch", "torch_profiler_dir": str(traces), "torch_profiler_with_stack": False},
    )
    prompts = [{"prompt_token_ids": row["token_ids"]} for row in pq.read_table(ids).to_pylist()]
    for count in options.requests:
        print(json.dumps(step(llm, prompts[:count], traces)), flush=True)
    shutil.rmtree(traces)
    os._exit(0)


def step(llm: Any, prompts: list[dict[str, Any]], traces: Path) -> dict[str, Any]:
    """Milliseconds of one step of `len(prompts)` sequences: as a whole, and of the GPU's kernels."""
    whole = {
        tokens: min([answer(llm, prompts, tokens) for _ in range(WARM_UP + PLAIN)][WARM_UP:]) for tokens in (FEW, MANY)
    }
    kernels = {}
    for tokens in (FEW, MANY):
        for old in traces.iterdir():
            old.unlink()
        llm.start_profile()
        answer(llm, prompts, tokens)
        llm.stop_profile()
        kernels[tokens] = kernel_s(traces)
    steps = MANY - FEW
    whole_ms, gpu_ms = (1000 * (seconds[MANY] - seconds[FEW]) / steps for seconds in (whole, kernels))
    return {
        "requests": len(prompts),
        "step_ms": round(whole_ms, 2),
        "gpu_ms": round(gpu_ms, 2),
        "gpu_share": round(gpu_ms / whole_ms, 3),
    }


def answer(llm: Any, prompts: list[dict[str, Any]], tokens: int) -> float:
    from vllm import SamplingParams

    began = time.perf_counter()
    llm.generate(prompts, SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True), use_tqdm=False)
    return time.perf_counter() - began


def kernel_s(traces: Path) -> float:
    """Of all kernels and copies on the GPU; the operators' own where there is none, to try this on a CPU."""
    total, on_cpu, deadline = 0.0, 0.0, time.time() + 60
    while (
        not (files := [path for path in traces.rglob("*.json.gz") if "async_llm" not in path.name])
        and time.time() < deadline
    ):
        time.sleep(0.5)
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for event in json.load(file)["traceEvents"]:
                if event.get("ph") == "X" and event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
                    total += event["dur"] / 1e6
                elif event.get("ph") == "X" and event.get("cat") == "cpu_op":
                    on_cpu += event["dur"] / 1e6
    return total or on_cpu


if __name__ == "__main__":
    main()
