"""Rows of several LoRA adapters a second: RayLLMBatch against vLLM's own `LLM.generate`, rows in the file's order.

    python -m bench.adapters FOLDER                                       tries it, with the demo model on a CPU
    python -m bench.adapters FOLDER --shape 1b --accelerator GPU --rows 4000 --adapters 8 --pairs 3

The same prompts, adapters, lengths and host, in turn (bench.in_turn). Each row asks for one of the adapters at random.
`LLM.generate` is vLLM as it is (max_loras 1) and, as `LLM.generate, room for all`, with a place for each adapter;
RayLLMBatch is as it is: it reads the ranks, chooses max_loras, and has rows of one adapter stand together.
Adapters have random weights of rank 16 in all of attention's projections; FOLDER gets them and the model's shape.

  rows/s   rows over the seconds from a ready engine to the last answer in the caller's hands.
  engine   rows over the time in which an engine had work, which only RayLLMBatch tells.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from bench import models
from bench.in_turn import BESIDE_OTHERS, Contender, compare, connect, keep_engines, timed
from bench.rows import words

RANK = 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def make_adapters(folder: Path, model: Path, count: int) -> Path:
    """`count` adapters of `model` in `folder`, one a sub-folder."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * size, "o_proj": hidden}
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none"}
    about |= {"base_model_name_or_path": str(model), "target_modules": list(PROJECTIONS)}
    for number in range(count):
        torch.manual_seed(number)
        place = folder / f"adapter-{number:02d}"
        place.mkdir(parents=True, exist_ok=True)
        weights = {}
        for layer in range(config["num_hidden_layers"]):
            for name in PROJECTIONS:
                given = heads * size if name == "o_proj" else hidden
                made = widths.get(name, config["num_key_value_heads"] * size)
                at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
                weights[f"{at}.lora_A.weight"] = (0.02 * torch.randn(RANK, given)).to(torch.bfloat16)
                weights[f"{at}.lora_B.weight"] = (0.02 * torch.randn(made, RANK)).to(torch.bfloat16)
        save_file(weights, place / "adapter_model.safetensors")
        (place / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def rows_of(work: dict[str, Any]) -> list[dict[str, Any]]:
    rng = random.Random(0)
    names = sorted(os.listdir(work["adapters"]))
    return [
        {"id": i, "text": " ".join(words(rng, work["words"])), "adapter": rng.choice(names)}
        for i in range(work["rows"])
    ]


def with_llm(job: dict[str, Any], lora: dict[str, Any]) -> Generator[Any, Any, None]:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm: Any = LLM(model=job["model"], disable_log_stats=True, **job["engine_kwargs"], **lora)
    params = SamplingParams(**job["sampling_params"])
    names = sorted(os.listdir(job["adapters"]))
    adapters = {name: LoRARequest(name, i + 1, str(Path(job["adapters"], name))) for i, name in enumerate(names)}
    llm.generate(["one"] * len(names), params, lora_request=list(adapters.values()), use_tqdm=False)
    work = yield None
    while True:
        given = rows_of(work)
        asked = [adapters[row["adapter"]] for row in given]
        began = time.time()
        found = llm.generate([row["text"] for row in given], params, lora_request=asked, use_tqdm=False)
        work = yield {"seconds": time.time() - began, "texts": [one.outputs[0].text for one in found]}


def with_ours(job: dict[str, Any]) -> Generator[Any, Any, None]:
    import pandas as pd
    import ray.data

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    class Rows(ChatWorkloadBase):
        sampling_params = job["sampling_params"]
        rows: Any = None

        def load_dataset(self) -> ray.data.Dataset:
            return ray.data.from_pandas(pd.DataFrame(self.rows))

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": row["text"], "model": row["adapter"]}

    given = {"model_id": job["model"], "llm_engine": "vllm", "accelerator_type": connect(job["accelerator"])}
    lora = {"dynamic_lora_loading_path": job["adapters"]}
    config = init_engine_from_config({**given, "engine_kwargs": job["engine_kwargs"], "lora_config": lora})
    keep_engines()
    RayLLMBatch(config, Rows(rows=rows_of(job["first"])), deduplicate=False).preview(32)  # the engine is ready
    work = yield None
    while True:
        batch = RayLLMBatch(config, Rows(rows=rows_of(work)), deduplicate=False)
        answered, found = timed(batch)
        rows = sorted(answered.take_all(), key=lambda row: row["id"])
        work = yield {**found, "texts": [row["generated_text"] for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--shape", choices=["demo", *models.SHAPES], default="demo")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--accelerator", choices=["CPU", "GPU"], default="CPU")
    args = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    model = models.make(args.shape, Path(args.folder))
    adapters = make_adapters(Path(args.folder, f"adapters-{args.shape}-{args.adapters}"), model, args.adapters)
    kwargs: dict[str, Any] = {"max_model_len": 1024, "enable_prefix_caching": False}
    kwargs |= {} if args.shape == "demo" else {"load_format": "dummy"}
    if args.accelerator == "CPU":
        kwargs |= {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
    else:
        kwargs |= {"max_num_seqs": 512, "max_num_batched_tokens": 8192, **BESIDE_OTHERS}
    params = {"temperature": 0.0, "max_tokens": args.output_tokens, "ignore_eos": True}
    job = {"model": str(model), "adapters": str(adapters.resolve()), "words": 90, "engine_kwargs": kwargs}
    job |= {"sampling_params": params, "accelerator": args.accelerator}
    lora = {"enable_lora": True, "max_lora_rank": RANK, "max_cpu_loras": args.adapters}
    contenders: dict[str, Contender] = {
        "LLM.generate": partial(with_llm, lora=lora),
        "LLM.generate, room for all": partial(with_llm, lora={**lora, "max_loras": args.adapters}),
        "RayLLMBatch": with_ours,
    }
    job["first"] = {**job, "rows": args.rows}
    works = {f"{args.adapters} adapters": job["first"]}
    print(f"engine settings {json.dumps(kwargs)}", flush=True)
    together = args.accelerator == "GPU"
    for _, roomy, ours in compare(contenders, job, works, args.pairs, together=together).values():
        same = sum(one == other for one, other in zip(roomy["texts"], ours["texts"], strict=True))
        print(f"the same texts as with room for all, in the last pair: {same} of {args.rows}")


if __name__ == "__main__":
    main()
