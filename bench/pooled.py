"""Embeddings or scores a second: RayLLMBatch against vLLM's own `LLM.embed` and `LLM.score`, and sentence-transformers
where it is installed.

    python -m bench.pooled --shape demo --rows 512                         tries it, on two cores
    python -m bench.pooled --shape bert --accelerator GPU --pairs 3        texts of 128 and of 500 tokens
    python -m bench.pooled --shape qwen3 --accelerator GPU --pairs 3 --engines 3
    python -m bench.pooled --task score --shape bert --accelerator GPU --pairs 3

The same texts, model, settings and host, in turn (bench.in_turn). Weights are random (`load_format: dummy`): the speed is real,
the vectors are not. `demo` is the model that ships with the repository, whose vectors are compared too.

  rows/s   rows over the seconds from a ready engine to the last vector in the caller's hands. Tokenizing is in it, for all.
  engine   rows over the time in which an engine had work, which only RayLLMBatch tells.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import tempfile
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from bench.in_turn import BESIDE_OTHERS, Contender, compare, connect, keep_engines, timed
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
WORDS = {"128 tokens": 95, "500 tokens": 400}  # of a text; the longer ones are cut at MAX_TOKENS
QUERY_WORDS = 10  # of a pair; the text is its document


def make(shape: str, task: str, folder: Path) -> Path:
    if shape == "demo":
        return DEMO_MODEL
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    config = dict(SHAPES[shape])
    if task == "score":
        config |= {"architectures": [config["architectures"][0].replace("Model", "ForSequenceClassification")]}
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def texts(work: dict[str, Any]) -> list[str]:
    rng = random.Random(work["words"])
    return [" ".join(words(rng, work["words"])) for _ in range(work["rows"])]


def queries(work: dict[str, Any]) -> list[str]:
    rng = random.Random("queries")
    return [" ".join(words(rng, QUERY_WORDS)) for _ in range(work["rows"])]


def with_llm(job: dict[str, Any]) -> Generator[Any, Any, None]:
    from vllm import LLM

    llm: Any = LLM(model=job["model"], disable_log_stats=True, **job["engine_kwargs"])
    cut = {"truncate_prompt_tokens": MAX_TOKENS}

    def answered(work: dict[str, Any]) -> list[Any]:
        given = texts(work)
        began = time.time()
        if job["task"] == "score":
            found = llm.score(queries(work), given, use_tqdm=False, tokenization_kwargs=cut)
        else:
            found = llm.embed(given, use_tqdm=False, tokenization_kwargs=cut)
        return [time.time() - began, found]

    answered({"words": 20, "rows": 8})
    work = yield None
    while True:
        seconds, found = answered(work)
        kept = [one.outputs.embedding for one in found[: job["kept"]]] if job["task"] == "embed" else []
        work = yield {"seconds": seconds, "vectors": kept}


def with_ours(job: dict[str, Any], engines: int = 1) -> Generator[Any, Any, None]:
    """engines: on the GPU, which share the memory of one; on CPUs, replicas."""
    import pandas as pd
    import ray.data

    from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

    class Texts(ChatWorkloadBase):
        pooling_params = {"truncate_prompt_tokens": MAX_TOKENS}  # noqa: RUF012
        table: Any = None

        def load_dataset(self) -> ray.data.Dataset:
            return ray.data.from_pandas(self.table)

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            if "query" in row:
                return {"query": row["query"], "document": row["text"]}
            return {"prompt": row["text"]}

    on_gpu = job["accelerator"] == "GPU"
    given = {"model_id": job["model"], "llm_engine": "vllm", "accelerator_type": connect(job["accelerator"])}
    given |= {"task": job["task"], "engine_kwargs": dict(job["engine_kwargs"])}
    if on_gpu:
        given["engines_per_gpu"] = engines
        given["engine_kwargs"]["gpu_memory_utilization"] /= engines
    config = init_engine_from_config(given)
    keep_engines()

    def batch_of(work: dict[str, Any]) -> RayLLMBatch:
        columns = {"id": range(work["rows"]), "text": texts(work)}
        if job["task"] == "score":
            columns["query"] = queries(work)
        replicas = 1 if on_gpu else engines
        return RayLLMBatch(config, Texts(table=pd.DataFrame(columns)), num_replicas=replicas, deduplicate=False)

    batch_of(job["first"]).preview(2)  # from here on the engine is ready, and fits all works
    work = yield None
    while True:
        batch = batch_of(work)
        answered, found = timed(batch)
        vectors: list[Any] = []
        if job["kept"]:
            rows = answered.filter(lambda row: row["id"] < job["kept"]).take_all()
            vectors = [list(map(float, row["embedding"])) for row in sorted(rows, key=lambda row: row["id"])]
        work = yield {**found, "vectors": vectors}


def with_sentence_transformers(job: dict[str, Any]) -> Generator[Any, Any, None]:
    """With random weights of the same shape, where they are not the demo model's."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = tempfile.mkdtemp(prefix="bench-")
    AutoModel.from_config(AutoConfig.from_pretrained(job["model"])).save_pretrained(folder)
    AutoTokenizer.from_pretrained(job["model"]).save_pretrained(folder)
    model = SentenceTransformer(folder)  # of a plain model it makes one that takes the mean
    model.max_seq_length = MAX_TOKENS
    if torch.cuda.is_available():
        model = model.to("cuda", torch.bfloat16)
    model.encode(texts({"words": 20, "rows": 8}))
    work = yield None
    while True:
        given = texts(work)
        began = time.time()
        model.encode(given, batch_size=256)
        work = yield {"seconds": time.time() - began}


def differ(these: list[list[float]], those: list[list[float]]) -> float:
    return max(abs(a - b) for one, other in zip(these, those, strict=True) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--task", choices=["embed", "score"], default="embed")
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--rows", type=int, help="of 128 tokens; a third of them of 500")
    parser.add_argument("--engines", type=int, default=1, help="more than 1: RayLLMBatch with so many, too")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--accelerator", choices=["CPU", "GPU"], default="CPU")
    parser.add_argument("--engine-kwargs", type=json.loads, default={}, metavar="JSON", help="for both that run vLLM")
    args = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    kwargs: dict[str, Any] = {"max_model_len": 512, "runner": "pooling", "enable_prefix_caching": False}
    kwargs |= {"convert": "embed"} if args.task == "embed" else {}
    kwargs |= {"load_format": "dummy"} if args.shape != "demo" else {}
    kwargs |= {"dtype": "float32", "enforce_eager": True} if args.accelerator == "CPU" else BESIDE_OTHERS
    contenders: dict[str, Contender] = {f"LLM.{args.task}": with_llm, "RayLLMBatch": with_ours}
    if args.engines > 1:
        contenders[f"RayLLMBatch, {args.engines} engines"] = partial(with_ours, engines=args.engines)
    if args.task == "embed" and importlib.util.find_spec("sentence_transformers"):
        contenders["sentence-transformers"] = with_sentence_transformers
    rows = args.rows or (512 if args.accelerator == "CPU" else 30_000)
    works = {name: {"words": count, "rows": rows} for name, count in WORDS.items()}
    works["500 tokens"]["rows"] = rows // 3
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job = {
            "task": args.task,
            "model": str(make(args.shape, args.task, Path(folder))),
            "accelerator": args.accelerator,
            "engine_kwargs": {**kwargs, **args.engine_kwargs},
            "first": works["128 tokens"],
            "kept": 64 if args.shape == "demo" and args.task == "embed" else 0,
        }
        print(f"{args.task}, {args.shape}: engine settings {json.dumps(job['engine_kwargs'])}", flush=True)
        together = args.accelerator == "GPU"
        for name, (theirs, ours, *_) in compare(contenders, job, works, args.pairs, together=together).items():
            if job["kept"]:
                print(f"{name}: largest difference of a number: {differ(theirs['vectors'], ours['vectors']):.1e}")


if __name__ == "__main__":
    main()
