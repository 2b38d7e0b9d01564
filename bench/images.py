"""Pictures a second: RayLLMBatch against vLLM's own `LLM.chat`, on the same files.

    python -m bench.images --rows 64 --accelerator CPU            tries it, with a tiny model of random weights
    python -m bench.images --model Qwen/Qwen2.5-VL-3B-Instruct --rows 2000 --side 1024 --pairs 3 --accelerator L4
    python -m bench.images --steps                                what one picture takes, without an engine

The same JPEG files, question, settings and host, in turn (A B A B ...), each in a process of its own, and the ratios are
those of neighbours. `LLM.chat` gets PIL images that are opened when its clock runs, since ours reads the files too.

  rows/s   rows over the seconds from a ready engine to the last answer in the caller's hands, reading files included.
  engine   rows over the time in which an engine had work, which only RayLLMBatch tells.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

QUESTION = "Describe the picture in one sentence."
MAX_TOKENS = 16


def make_files(folder: Path, rows: int, side: int) -> list[str]:
    """JPEGs that differ, as smooth as photographs are: patches of colour with a little noise."""
    from PIL import Image

    names = []
    for row in range(rows):
        rng = np.random.default_rng(row)
        width, height = side, int(side * rng.uniform(0.5, 1.0))
        patches = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((width, height), 3)
        noisy = np.asarray(patches, dtype=np.int16) + rng.integers(-6, 7, (height, width, 1))
        names.append(f"{row:06d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=85)
    return names


def with_llm(job: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image
    from vllm import LLM, SamplingParams

    def chat(name: str) -> list[dict[str, Any]]:
        picture = {"type": "image_pil", "image_pil": Image.open(Path(job["folder"], name)).convert("RGB")}
        return [{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}]

    llm = LLM(model=job["model"], disable_log_stats=True, **job["engine_kwargs"])
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    llm.chat([chat(name) for name in job["files"][:2]], params, use_tqdm=False)
    began = time.time()
    answers = llm.chat([chat(name) for name in job["files"]], params, use_tqdm=False)
    return {"seconds": time.time() - began, "texts": [one.outputs[0].text for one in answers]}


def with_ours(job: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd
    import ray.data

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    class Pictures(ChatWorkloadBase):
        sampling_params = {"temperature": 0.0, "max_tokens": MAX_TOKENS}  # noqa: RUF012
        media_folder = job["folder"]

        def load_dataset(self) -> ray.data.Dataset:
            return ray.data.from_pandas(pd.DataFrame({"file": job["files"]}))

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            content = [{"type": "image", "image": row["file"]}, {"type": "text", "text": QUESTION}]
            return {"messages": [{"role": "user", "content": content}]}

    if job["accelerator"] == "CPU":
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    given = {"model_id": job["model"], "llm_engine": "vllm", "accelerator_type": job["accelerator"]}
    config = init_engine_from_config({**given, "engine_kwargs": job["engine_kwargs"]})
    batch = RayLLMBatch(config, Pictures(), deduplicate=False)
    batch.preview(2)  # from here on the engine is ready
    began = time.time()
    answered = batch.run()
    seconds = time.time() - began
    metrics: Any = batch.metrics
    rows = sorted(answered.take_all(), key=lambda row: row["file"])
    found = {"engine_s": metrics.engine_s, "failed": metrics.failed, "texts": [row["generated_text"] for row in rows]}
    return {"seconds": seconds, **found}


CONTENDERS = {"LLM.chat": with_llm, "RayLLMBatch": with_ours}


def measured(name: str, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.images", "--contender", name, "--job", json.dumps(job), file.name]
        subprocess.run(command, check=True, stdout=sys.stderr, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ})
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def steps(model: str) -> None:
    """Milliseconds a picture, on one core: what our threads and tasks do, and what vLLM's one thread does."""
    from PIL import Image
    from transformers import AutoProcessor

    from rayllm_batch.media import decode
    from rayllm_batch.media.medium import Medium
    from rayllm_batch.media.reader import MediaReader
    from rayllm_batch.media.rules import MediaRules

    processor, reader = AutoProcessor.from_pretrained(model), MediaReader(MediaRules())
    print("| pixels | JPEG KB | RGB KB | read and checked | decoded | pixels hashed | prepared by the processor |")
    print("|---|---|---|---|---|---|---|")
    for side in (512, 1024, 2048):
        with tempfile.TemporaryDirectory() as folder:
            files = make_files(Path(folder), 8, side)
            given = [Path(folder, name).read_bytes() for name in files]
        images = [Image.open(io.BytesIO(one)).convert("RGB") for one in given]
        media = [Medium("image", one, str(i)) for i, one in enumerate(given)]
        taken = [
            _milliseconds(partial(reader.read, "image"), given),
            _milliseconds(decode.image_of, media),
            _milliseconds(_hashed, images),
            _milliseconds(lambda one: processor.image_processor(one, return_tensors="np"), images),
        ]
        sizes = sum(map(len, given)) / len(given) / 1024, images[0].width * images[0].height * 3 / 1024
        print(f"| {side} | {sizes[0]:.0f} | {sizes[1]:.0f} | {' | '.join(f'{one:.1f}' for one in taken)} |")


def _hashed(image: Any) -> str:
    from blake3 import blake3

    return blake3(np.asarray(image).tobytes()).hexdigest()


def _milliseconds(step: Callable[[Any], Any], given: list[Any]) -> float:
    step(given[0])
    taken = []
    for one in given:
        began = time.perf_counter()
        step(one)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a Hub id or a folder; without one, the tiny model of scripts/demo_vlm.py")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--accelerator", default="CPU")
    parser.add_argument("--steps", action="store_true", help="what it takes to prepare one picture, and no engine")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("result", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        Path(args.result).write_text(json.dumps(CONTENDERS[args.contender](args.job)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model = args.model
        if model is None:
            from scripts import demo_vlm

            model = str(demo_vlm.make(Path(folder, "model")))
        if args.steps:
            return steps(model)
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        kwargs: dict[str, Any] = {"limit_mm_per_prompt": {"image": 1}, "mm_processor_cache_gb": 0}
        kwargs |= {"enforce_eager": True, "max_num_seqs": 16} if args.accelerator == "CPU" else {"max_model_len": 8192}
        files = make_files(pictures, args.rows, args.side)
        job = {"model": model, "folder": str(pictures), "files": files, "engine_kwargs": kwargs}
        job["accelerator"] = args.accelerator
        ratios = []
        print("| pair | contender | rows/s | engine rows/s | the same texts |\n|---|---|---|---|---|")
        for pair in range(1, args.pairs + 1):
            found = {name: measured(name, job) for name in CONTENDERS}
            base, ours = found.values()
            same = sum(one == other for one, other in zip(base["texts"], ours["texts"], strict=True))
            ratios.append(base["seconds"] / ours["seconds"])
            for name, one in found.items():
                engine = f"{args.rows / one['engine_s']:,.2f}" if "engine_s" in one else "-"
                print(f"| {pair} | {name} | {args.rows / one['seconds']:,.2f} | {engine} | {same} of {args.rows} |")
        print(f"median ratio to LLM.chat: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
