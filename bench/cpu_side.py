"""What the CPU side can carry: parquet to parquet with an engine that costs nothing, articles of 4 KB.

    python -m bench.cpu_side --sizes 28000 84000           # all of them, each measurement in a process of its own
    python -m bench.cpu_side --sizes 100000 1000000 --only RayLLMBatch

  encode_batch_fast  the tokenizer alone, on the same rendered prompts and the same cores, in one process
  RayLLMBatch        run() with the echo engine, then write_parquet
  RayLLMBatch, ids   the same with rows that come with their token ids, 1,044 each, as many as the articles have on average
  RayLLMBatch, embed run() with task: embed of texts of 128 tokens, then write_parquet of the vectors, 256 numbers each
  ray.data.llm       its template, tokenise and detokenise stages with an engine stage that echoes as well, then
                     write_parquet. The stage hands on the columns that the real one does (the prompt and its token ids
                     among them), without vLLM's and pydantic's work for them.

A Ray Data run has a fixed cost, mostly worker processes that start and import, so the rate is the marginal one: the
difference in rows over the difference in seconds between two sizes. Seconds run from the call, Ray's start included, until
the files are written. Both sizes must be read in the same way: RayLLMBatch's driver reads local files of up to 64 MB
together, which are some 24,000 of these articles, and Ray's tasks read larger ones, with some 8 s of their own. Each row is
answered with its first 32 tokens. The echo engine has the limits of a large GPU (1,024 sequences at once). CPU time is that of
all processes of a measurement, as each was last seen: where others use the cores too, it says more than the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench import table
from bench.contenders import versions
from bench.models import DEMO_MODEL
from bench.rows import words

ARTICLE_CHARACTERS = 4096
IDS_A_ROW, VOCABULARY = 1044, 8000
MAX_TOKENS = 32
ROWS_A_GROUP = 1024
TEXT_WORDS = 95  # some 128 tokens
TOKENIZER_ALONE, OURS, OURS_IDS, RAYS = "encode_batch_fast", "RayLLMBatch", "RayLLMBatch, ids", "ray.data.llm"
OURS_EMBED = "RayLLMBatch, embed"


def article(i: int) -> str:
    return " ".join(words(random.Random(i), ARTICLE_CHARACTERS // 4))[:ARTICLE_CHARACTERS]


def token_ids(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, VOCABULARY, IDS_A_ROW, dtype=np.int32)


def text(i: int) -> str:
    return " ".join(words(random.Random(i), TEXT_WORDS))


# Of the contenders that do not read articles: their files' name, the column, and its values.
OWN_ROWS: dict[str, tuple[str, pa.Field, Callable[[int], Any]]] = {
    OURS_IDS: ("ids", pa.field("prompt_token_ids", pa.list_(pa.int32())), token_ids),
    OURS_EMBED: ("texts", pa.field("text", pa.string()), text),
}
ARTICLES = ("articles", pa.field("article", pa.string()), article)


def make_rows(count: int, path: Path, column: pa.Field, value: Callable[[int], Any]) -> None:
    """Rows of id and that column, in row groups as a writer of such files would make them."""
    schema = pa.schema([pa.field("id", pa.int64()), column])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, ROWS_A_GROUP):
            ids = range(first, min(first + ROWS_A_GROUP, count))
            writer.write_table(pa.table({"id": list(ids), column.name: [value(i) for i in ids]}, schema=schema))


def tokenizer_alone(path: str, out: str, cores: int) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from rayllm_batch.workers.prompts import PromptJob, render

    tokenizer = AutoTokenizer.from_pretrained(str(DEMO_MODEL))
    job = PromptJob(parse_row=_parse_row(), tokenizer=str(DEMO_MODEL))
    rows = pq.read_table(path).to_pylist()
    texts = [render(tokenizer, job.parse_row(row)["messages"], job) for row in rows]
    began = time.time()
    tokens = 0
    for first in range(0, len(texts), ROWS_A_GROUP):
        batch = texts[first : first + ROWS_A_GROUP]
        tokens += sum(
            len(e.ids) for e in tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        )
    return {"seconds": time.time() - began, "input_tokens": tokens}


def ours(path: str, out: str, cores: int) -> dict[str, Any]:
    from rayllm_batch import CNNDailySummary

    return _through_ours(CNNDailySummary, path, out, cores)


def ours_with_ids(path: str, out: str, cores: int) -> dict[str, Any]:
    from rayllm_batch import ChatWorkloadBase

    class TokenIds(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt_token_ids": row["prompt_token_ids"]}

    return _through_ours(TokenIds, path, out, cores)


def ours_embedding(path: str, out: str, cores: int) -> dict[str, Any]:
    from rayllm_batch import ChatWorkloadBase

    class Texts(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": row["text"]}

    return _through_ours(Texts, path, out, cores, "embed")


def _through_ours(workload: type, path: str, out: str, cores: int, task: str = "generate") -> dict[str, Any]:
    began = time.time()
    import ray

    from rayllm_batch import RayLLMBatch, init_engine_from_config

    # The default, except that it may be fewer CPUs than the machine has
    ray.init(num_cpus=cores, logging_level="ERROR", log_to_driver=False)
    config = init_engine_from_config(
        {
            "model_id": str(DEMO_MODEL),
            "llm_engine": "echo",
            "accelerator_type": "CPU",
            "task": task,
            "engine_kwargs": {"max_model_len": 4096, "max_num_seqs": 1024},
        }
    )
    fields = {"sampling_params": {"max_tokens": MAX_TOKENS}} if task == "generate" else {}
    answered = RayLLMBatch(config, workload(dataset_file=path, **fields)).run()
    answered.write_parquet(out)
    seconds = time.time() - began
    return {"seconds": seconds, "stored_bytes": stored_bytes(answered.stats()), "result_bytes": answered.size_bytes()}


def rays(path: str, out: str, cores: int) -> dict[str, Any]:
    began = time.time()
    import ray
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    # Four stages whose actors ask for a CPU each: told of two CPUs, it waits for ever; told of eight, Ray starts eighteen
    # processes on the two that there are. Half a CPU each, of four, is the kindest to it.
    half = {"enabled": True, "num_cpus": 0.5}
    ray.init(num_cpus=max(4, cores), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    from ray import cloudpickle

    parse_row = _parse_row()
    cloudpickle.register_pickle_by_value(
        sys.modules["rayllm_batch"]
    )  # its workers need not have this folder on their path
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=str(DEMO_MODEL),
            batch_size=64,
            concurrency=1,
            log_engine_metrics=False,
            engine_kwargs={"distributed_executor_backend": "mp"},
            placement_group_config={"bundles": [{"CPU": 0.5}]},
            chat_template_stage=half,
            tokenize_stage=half,
            detokenize_stage=half,
        ),
        preprocess=lambda row: {**parse_row(row), "sampling_params": {"max_tokens": MAX_TOKENS}},
        postprocess=lambda row: {
            name: row[name] for name in ("id", "article", "generated_text", "num_input_tokens", "num_generated_tokens")
        },
    )
    stage = processor.stages["vLLMEngineStage"]
    stage.fn = _echo_stage()
    stage.map_batches_kwargs.pop("num_gpus", None)  # setting `fn` asks for a GPU anew
    answered = processor(ray.data.read_parquet(path)).materialize()
    answered.write_parquet(out)
    seconds = time.time() - began
    return {"seconds": seconds, "stored_bytes": stored_bytes(answered.stats()), "result_bytes": answered.size_bytes()}


CONTENDERS: dict[str, Callable[[str, str, int], dict[str, Any]]] = {
    TOKENIZER_ALONE: tokenizer_alone,
    OURS: ours,
    OURS_IDS: ours_with_ids,
    OURS_EMBED: ours_embedding,
    RAYS: rays,
}


def stored_bytes(stats: str) -> Optional[int]:
    """Bytes that all operators together put into the object store, from `Dataset.stats()`; None if it does not say."""
    totals = re.findall(r"Output size bytes per block: .*?, (\d+) total", stats)
    return sum(map(int, totals)) if totals else None


def measure(name: str, path: str, cores: int) -> dict[str, Any]:
    """One measurement, in this process: seconds, CPU seconds, rows, the driver's memory (MiB, largest and last)."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    sizes: list[float] = []
    spent: dict[int, float] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            me = psutil.Process()
            sizes.append(me.memory_info().rss / 2**20)
            for process in (me, *me.children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="bench-") as out:
        found = CONTENDERS[name](path, out, cores)
        stop.set()
        count = pq.read_metadata(path).num_rows
        if name != TOKENIZER_ALONE:
            written = pq.ParquetDataset(out).read(columns=["id", "num_input_tokens"])
            if sorted(written["id"].to_pylist()) != list(range(count)):
                raise SystemExit(f"{name} wrote {written.num_rows} rows of {count}")
            found["input_tokens"] = sum(written["num_input_tokens"].to_pylist())
    return {
        "contender": name,
        "rows": count,
        "cores": cores,
        "cpu_seconds": sum(spent.values()),
        "driver_mib": max(sizes),
        "driver_mib_at_end": sizes[-1],
        "versions": versions(),
        **found,
    }


def report(results: list[dict[str, Any]]) -> str:
    """A table: rates between the smallest and the largest size, and what is left over as fixed cost."""
    lines = []
    alone: Optional[float] = None
    for name in CONTENDERS:
        runs = sorted((r for r in results if r["contender"] == name), key=lambda r: r["rows"])
        if not runs:
            continue
        small, large = runs[0], runs[-1]
        rate = fixed = cpu_ms = None
        if large["rows"] > small["rows"]:
            rate = (large["rows"] - small["rows"]) / (large["seconds"] - small["seconds"])
            if "cpu_seconds" in small and "cpu_seconds" in large:
                cpu_ms = 1e3 * (large["cpu_seconds"] - small["cpu_seconds"]) / (large["rows"] - small["rows"])
            if name != TOKENIZER_ALONE:  # it starts nothing
                fixed = small["seconds"] - small["rows"] / rate
        alone = rate if name == TOKENIZER_ALONE else alone
        lines.append(
            [
                name,
                " / ".join(f"{r['rows']:,}" for r in runs),
                " / ".join(f"{r['seconds']:.1f}" for r in runs),
                f"{rate:,.0f}" if rate else "-",
                f"{cpu_ms:.2f}" if cpu_ms else "-",
                f"{rate / alone:.2f}" if rate and alone and name != OURS_EMBED else "-",
                f"{fixed:.1f}" if fixed is not None else "-",
                " / ".join(f"{r['driver_mib']:,.0f}" for r in runs),
                f"{large['stored_bytes'] / large['rows']:,.0f}" if large.get("stored_bytes") else "-",
                f"{large['result_bytes'] / large['rows']:,.0f}" if large.get("result_bytes") else "-",
            ]
        )
    return table.markdown(
        [
            "contender",
            "rows",
            "seconds",
            "rows/s (marginal)",
            "CPU-ms a row (marginal)",
            "of encode_batch_fast",
            "fixed s",
            "driver MiB (largest)",
            "bytes a row through the object store",
            "bytes a row of the result",
        ],
        lines,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.cpu_side", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[28000, 84000])
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="may be given more than once")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", default=os.path.join(os.environ.get("OUT", "bench"), "results", "cpu_side"))
    parser.add_argument("--add", action="store_true", help="add to the results that are there (else they are replaced)")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)  # the child's side
    options = parser.parse_args()
    if options.one:
        path = options.out
        print(json.dumps(measure(options.one, path, options.cores)), flush=True)
        return
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "results.json"
    results = json.loads(stored.read_text(encoding="utf-8")) if options.add and stored.is_file() else []
    for count in options.sizes:
        names = options.only or list(CONTENDERS)
        paths = {name: folder / f"{OWN_ROWS.get(name, ARTICLES)[0]}-{count}.parquet" for name in names}
        for path, (_, column, value) in {paths[name]: OWN_ROWS.get(name, ARTICLES) for name in names}.items():
            make_rows(count, path, column, value)
        for name in names:
            child = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "bench.cpu_side",
                    "--one",
                    name,
                    "--cores",
                    str(options.cores),
                    "--out",
                    str(paths[name].resolve()),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if child.returncode:
                print(f"{name}, {count:,} rows: failed\n{child.stderr[-2000:]}", flush=True)
                continue
            results.append(json.loads(child.stdout.splitlines()[-1]))
            print(f"{name}, {count:,} rows: {results[-1]['seconds']:.1f} s", flush=True)
            stored.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(report(results))
    tokens = {(r["rows"], r["input_tokens"]) for r in results if r["contender"] not in OWN_ROWS}
    if len(tokens) != len({rows for rows, _ in tokens}):
        raise SystemExit(f"NOT COMPARABLE: input tokens differ: {sorted(tokens)}")


def _parse_row() -> Callable[[dict[str, Any]], dict[str, Any]]:
    from rayllm_batch import CNNDailySummary

    return CNNDailySummary().parse_row


def _echo_stage() -> type:
    from ray.llm._internal.batch.stages.base import StatefulStageUDF

    class EchoStage(StatefulStageUDF):
        def __init__(self, data_column: str, expected_input_keys: list[str], **_: Any) -> None:
            super().__init__(data_column, expected_input_keys)

        async def udf(self, batch: list[dict[str, Any]]) -> Any:
            for row in batch:
                ids = list(row.pop("tokenized_prompt"))
                row.pop("sampling_params")
                yield {
                    self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN],
                    "prompt": row.pop("prompt"),
                    "prompt_token_ids": ids,
                    "num_input_tokens": len(ids),
                    "generated_tokens": ids[:MAX_TOKENS],
                    "generated_text": "",
                    "num_generated_tokens": len(ids[:MAX_TOKENS]),
                }

    return EchoStage


if __name__ == "__main__":
    main()
