"""What it costs to continue a folder: with the code as it was, and with code that was changed and asks the same.

    python bench/resume.py --rows 1000000                        # this checkout
    python bench/resume.py --rows 1000000 --baseline ../before   # and another one, in the same run, alternating

A job of so many short rows is answered by the echo engine; its newest part is taken out, and the same call made again,
`--times` times. Reported are seconds of the whole call without Ray's start, and the driver's memory. With `changed`, the
workload has a field more, so that each finished row is parsed again and compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def drive(args: argparse.Namespace) -> None:
    sys.path.insert(0, args.checkout)
    import ray

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    class Job(ChatWorkloadBase):
        sampling_params: dict = {"max_tokens": 4}  # noqa: RUF012 (as users write it)

        def parse_row(self, row):
            return {"messages": [{"role": "user", "content": row["text"]}]}

    class Changed(Job):
        note: str = ""

    Changed.__qualname__ = Job.__qualname__
    engine = {"llm_engine": "echo", "engine_kwargs": {"max_num_seqs": 1024, "speculative_config": None}}
    config = init_engine_from_config(str(ROOT / "configs" / "demo-cpu.yaml"), override=engine)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    began = time.time()
    RayLLMBatch(config, (Changed if args.changed else Job)(dataset_file=args.dataset_file)).run(args.folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("TOOK", json.dumps({"seconds": time.time() - began, "MiB": peak}), flush=True)
    os._exit(0)


def run(checkout: str, dataset_file: str, folder: str, *more: str) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "drive",
        "--checkout",
        checkout,
        "--dataset-file",
        dataset_file,
        "--folder",
        folder,
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    took = [line for line in done.stdout.splitlines() if line.startswith("TOOK ")]
    if not took:
        raise RuntimeError(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(took[0][5:])


def take_out_the_newest_part(folder: Path) -> int:
    manifest = folder / "_rayllm_batch" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "unfinished"}))
    newest = max(folder.glob("part-*"), key=lambda path: path.name)
    ids = folder / "_rayllm_batch" / "rows" / f"{newest.name}.ids"
    rows = json.loads(ids.read_bytes().partition(b"\n")[0])["rows"]
    newest.unlink()
    ids.unlink()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["measure", "drive"], default="measure")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--baseline", help="another checkout")
    for name in ("--checkout", "--dataset-file", "--folder"):
        parser.add_argument(name)
    parser.add_argument("--changed", action="store_true")
    args = parser.parse_args()
    if args.command == "drive":
        drive(args)
        return
    import pyarrow as pa
    import pyarrow.parquet

    checkouts = {"this": str(ROOT), **({"baseline": str(Path(args.baseline).resolve())} if args.baseline else {})}
    with tempfile.TemporaryDirectory(prefix="resume-") as place:
        file = f"{place}/rows.parquet"
        pyarrow.parquet.write_table(pa.table({"text": [f"row {i} of the data" for i in range(args.rows)]}), file)
        for name, checkout in checkouts.items():
            print(f"{name}: answered at first", run(checkout, file, f"{place}/{name}"), flush=True)
        took: dict[str, list[float]] = {}
        for _ in range(args.times):
            for name, checkout in checkouts.items():
                rows = take_out_the_newest_part(Path(place, name))
                its = run(checkout, file, f"{place}/{name}")
                took.setdefault(name, []).append(its["seconds"])
                print(f"{name}: {rows:,} rows again", its, flush=True)
        rows = take_out_the_newest_part(Path(place, "this"))
        print(f"changed, {rows:,} rows again", run(checkouts["this"], file, f"{place}/this", "--changed"), flush=True)
        medians = {name: statistics.median(values) for name, values in took.items()}
        print("medians, s:", {name: round(value, 1) for name, value in medians.items()})
        if args.baseline:
            print(f"this over baseline: {medians['this'] / medians['baseline']:.2f}")


if __name__ == "__main__":
    main()
