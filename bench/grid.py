"""The bare engine under several settings: is what was chosen near the best of them?

    python -m bench.grid --workload 1b --rows 3000 '{}' '{"max_num_seqs": 512}' '{"max_num_seqs": 2048}'

Each setting, in JSON, goes over the workload's own (bench.rows) and gets a process of its own, one after the other. It answers
all rows `--times` times; the fastest counts, since the first one has kernels to compile. `share` is of the fastest setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from bench import models, rows, table
from bench.compare import Contender, ContenderFailed
from bench.contenders import Job, LLMGenerate


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.grid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="JSON", type=json.loads)
    parser.add_argument("--workload", choices=rows.WORKLOADS, default="8b")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument(
        "--limit-s", type=float, default=86400, help="no setting is begun that would not end within this many seconds"
    )
    parser.add_argument("--scratch", default="/tmp/bench-scratch")
    parser.add_argument("--out", default=os.path.join(os.environ.get("OUT", "bench"), "grid"))
    options = parser.parse_args()
    found = measure(options)
    (Path(options.out) / f"{options.workload}.json").write_text(json.dumps(found), encoding="utf-8")
    print(report(found), flush=True)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    work, scratch, out = rows.WORKLOADS[options.workload], Path(options.scratch), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    model = models.make(work.shape, scratch / "models")
    rows_file, ids_file = rows.write(work, options.rows or work.rows, model, scratch / options.workload)
    job = Job(
        workload=options.workload,
        model=str(model.resolve()),
        rows=str(rows_file.resolve()),
        token_ids=str(ids_file.resolve()),
        engine_kwargs=work.engine_kwargs,
        requested_at=0.0,
        ours={},
    )
    deadline, longest, found = time.time() + options.limit_s, 0.0, []
    for setting in options.settings:
        began = time.time()
        if deadline - began < longest:
            print(f"stopping: {deadline - began:.0f} s are left, and a setting took up to {longest:.0f}", flush=True)
            break
        kwargs = {key: value for key, value in {**job.engine_kwargs, **setting}.items() if value is not None}
        contender = Contender(LLMGenerate.name, dataclasses.replace(job, engine_kwargs=kwargs), out)
        path = out / "result.json"
        try:
            for time_number in range(1, options.times + 1):
                path.unlink(missing_ok=True)
                result = contender.run(path, max(1.0, deadline - time.time()))
                result.pop("tokens")
                found.append({**result, "setting": setting, "time": time_number})
                print(
                    f"{json.dumps(setting)}: start {result['start_s']:.1f} s, engine {result['engine_s']:.1f} s, {table.speed(result):,.0f} output tokens/s",
                    flush=True,
                )
        except ContenderFailed as error:
            print(f"{json.dumps(setting)}: {error}", flush=True)
        contender.close()
        longest = max(longest, time.time() - began)
    return found


def report(found: list[dict[str, Any]]) -> str:
    """One row a setting."""
    best: dict[str, dict[str, Any]] = {}
    for result in found:
        kept = best.setdefault(json.dumps(result["setting"]), result)
        if table.speed(result) > table.speed(kept):
            best[json.dumps(result["setting"])] = result
    top = max((table.speed(result) for result in best.values()), default=0.0)
    lines = [
        [
            setting,
            *(
                f"{result['settings'][key]:,}"
                for key in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_tokens")
            ),
            f"{result['engine_s']:.1f}",
            f"{table.speed(result):,.0f}",
            f"{table.speed(result) / top:.3f}",
        ]
        for setting, result in best.items()
    ]
    heads = [
        "setting",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_cache_tokens",
        "engine s",
        "output tokens/s",
        "share",
    ]
    return table.markdown(heads, lines)


if __name__ == "__main__":
    main()
