"""Embeddings a second: RayLLMBatch against vLLM's own `LLM.embed`, and sentence-transformers where it is installed.

    python -m bench.embeddings --shape demo --rows 512 --accelerator CPU        tries it, on two cores
    python -m bench.embeddings --shape bert --rows 100000 --pairs 3 --accelerator H100
    python -m bench.embeddings --shape qwen3 --rows 50000 --pairs 3 --accelerator H100

The same texts, model, settings and host, in turn (A B A B ...), each in a process of its own, and the ratios are those of
neighbours. Weights are random (`load_format: dummy`): the speed is real, the vectors are not. `demo` is the model that
ships with the repository, whose vectors are compared too.

  rows/s   rows over the seconds from a ready engine to the last vector in the caller's hands. Tokenizing is in it, for all.
  engine   rows over the time in which an engine had work, which only RayLLMBatch tells.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.models import DEMO_MODEL
from bench.rows import words

# BAAI/bge-base-en-v1.5 and Qwen/Qwen3-Embedding-0.6B, by their config.json; the tokenizer is the demo model's.
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "position_embedding_type": "absolute",
        "vocab_size": 30522,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "vocab_size": 151669,
        "torch_dtype": "bfloat16",
    },
}
MAX_TOKENS = 500  # of a text; both shapes take them
TEXT_WORDS = (20, 200)  # evenly spread: passages of a search index


def make(shape: str, folder: Path) -> Path:
    if shape == "demo":
        return DEMO_MODEL
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]), encoding="utf-8")
    return folder


def texts(rows: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(words(rng, rng.randint(*TEXT_WORDS))) for _ in range(rows)]


def engine_kwargs(shape: str, accelerator: str) -> dict[str, Any]:
    """What all that run vLLM are given."""
    kwargs: dict[str, Any] = {"max_model_len": 512, "runner": "pooling", "convert": "embed"}
    if shape != "demo":
        kwargs["load_format"] = "dummy"
    return {**kwargs, "dtype": "float32", "enforce_eager": True} if accelerator == "CPU" else kwargs


def with_llm(job: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM

    given = texts(job["rows"])
    llm = LLM(model=job["model"], disable_log_stats=True, **job["engine_kwargs"])
    llm.embed(given[:8], use_tqdm=False)
    began = time.time()
    found = llm.embed(given, use_tqdm=False, tokenization_kwargs={"truncate_prompt_tokens": MAX_TOKENS})
    seconds = time.time() - began
    return {"seconds": seconds, "vectors": [one.outputs.embedding for one in found[: job["kept"]]]}


def with_ours(job: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd
    import ray.data

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    class Texts(ChatWorkloadBase):
        def load_dataset(self) -> ray.data.Dataset:
            return ray.data.from_pandas(pd.DataFrame({"id": range(job["rows"]), "text": texts(job["rows"])}))

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": row["text"]}

    if job["accelerator"] == "CPU":
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    config = init_engine_from_config(
        {
            "model_id": job["model"],
            "llm_engine": "vllm",
            "accelerator_type": job["accelerator"],
            "task": "embed",
            "engine_kwargs": job["engine_kwargs"],
        }
    )
    workload = Texts(pooling_params={"truncate_prompt_tokens": MAX_TOKENS})
    batch = RayLLMBatch(config, workload, deduplicate=False)
    batch.preview(2)  # from here on the engine is ready
    began = time.time()
    answered = batch.run()
    seconds = time.time() - began
    metrics: Any = batch.metrics
    first = sorted(answered.filter(lambda row: row["id"] < job["kept"]).take_all(), key=lambda row: row["id"])
    return {
        "seconds": seconds,
        "engine_s": metrics.engine_s,
        "failed": metrics.failed,
        "vectors": [[float(number) for number in row["embedding"]] for row in first],
    }


def with_sentence_transformers(job: dict[str, Any]) -> dict[str, Any]:
    """With random weights of the same shape, where they are not the demo model's."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = tempfile.mkdtemp(prefix="bench-")
    AutoModel.from_config(AutoConfig.from_pretrained(job["model"])).save_pretrained(folder)
    AutoTokenizer.from_pretrained(job["model"]).save_pretrained(folder)
    transformer = models.Transformer(folder, max_seq_length=MAX_TOKENS)
    model = SentenceTransformer(modules=[transformer, models.Pooling(transformer.get_word_embedding_dimension())])
    if torch.cuda.is_available():
        model = model.to("cuda", torch.bfloat16)
    given = texts(job["rows"])
    model.encode(given[:8])
    began = time.time()
    model.encode(given, batch_size=256)
    return {"seconds": time.time() - began, "vectors": []}


CONTENDERS = {"LLM.embed": with_llm, "RayLLMBatch": with_ours}
if importlib.util.find_spec("sentence_transformers"):
    CONTENDERS["sentence-transformers"] = with_sentence_transformers


def measured(name: str, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.embeddings", "--contender", name, "--job", json.dumps(job), file.name]
        subprocess.run(command, check=True, stdout=sys.stderr, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ})
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def differ(these: list[list[float]], those: list[list[float]]) -> float:
    return max(abs(a - b) for one, other in zip(these, those, strict=True) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--accelerator", default="CPU")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("result", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        Path(args.result).write_text(json.dumps(CONTENDERS[args.contender](args.job)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job = {
            "model": str(make(args.shape, Path(folder))),
            "rows": args.rows,
            "accelerator": args.accelerator,
            "engine_kwargs": engine_kwargs(args.shape, args.accelerator),
            "kept": 64 if args.shape == "demo" else 0,
        }
        ratios: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        print("| pair | contender | rows/s | engine rows/s | ratio to LLM.embed |\n|---|---|---|---|---|")
        for pair in range(1, args.pairs + 1):
            found = {name: measured(name, job) for name in CONTENDERS}
            base = found["LLM.embed"]
            for name, one in found.items():
                ratios[name].append(base["seconds"] / one["seconds"])
                engine = f"{args.rows / one['engine_s']:,.1f}" if "engine_s" in one else "-"
                print(f"| {pair} | {name} | {args.rows / one['seconds']:,.1f} | {engine} | {ratios[name][-1]:.3f} |")
            if job["kept"]:
                print(f"largest difference of a number: {differ(found['RayLLMBatch']['vectors'], base['vectors']):.1e}")
        medians = ", ".join(f"{name} {statistics.median(ratio):.3f}" for name, ratio in ratios.items())
        print(f"median ratios to LLM.embed: {medians}")


if __name__ == "__main__":
    main()
