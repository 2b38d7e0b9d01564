"""The rows that every contender answers, and the engine settings they answer them with.

The same workload and row count always give the same rows: text, output lengths and order.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ARTICLES = Path(__file__).resolve().parent.parent / "assets" / "sample_articles.jsonl"
SYSTEM = "You are a news editor. You write short, factual highlights of the articles you are given."
TASK = "Task: Summarise the highlights of this article in clear and concise language."
ROWS_A_BLOCK = 256  # for both users of Ray Data: several blocks, so that reading and tokenising are spread

# Given to every engine, so that none falls back to a smaller scheduler of its own.
GPU = {
    "load_format": "dummy",
    "max_model_len": 4096,
    "max_num_seqs": 1024,
    "max_num_batched_tokens": 16384,
    "enable_prefix_caching": True,
    "gpu_memory_utilization": 0.92,
}
CPU = {
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 2048,
    "enable_prefix_caching": True,
    "enforce_eager": True,
}


@dataclass(frozen=True)
class Work:
    """One kind of work.

    shape:         a shape of bench.models, or "demo" for the model that ships with the repository, on CPU.
    rows:          how many, unless the command line says otherwise.
    words:         mean words of an article; lengths are long-tailed, as in news.
    output_tokens: mean; each row has its own length, spread evenly from `shortest` to twice the mean less `shortest`.
    copies:        rows that have the same prompt and the same length, scattered over the file.
    long_share:    that share of the rows is answered with ten times output_tokens instead.
    prefixes:      when above 0, prompts begin with one of this many prefixes of `prefix_words` words, and rows are
                   shuffled.
    """

    shape: str
    rows: int
    words: int
    output_tokens: int
    engine_kwargs: dict[str, Any]
    shortest: int = 32
    copies: int = 1
    long_share: float = 0.0
    prefixes: int = 0
    prefix_words: int = 0
    notes: str = field(default="", compare=False)


WORKLOADS = {
    "8b": Work("8b", 2500, 492, 128, GPU, notes="817 tokens in, 128 out, bf16"),
    "8b-fp8": Work("8b", 2500, 492, 128, {**GPU, "quantization": "fp8"}, notes="the same in fp8"),
    "1b": Work("1b", 8000, 65, 256, GPU, notes="145 tokens in, 256 out, bf16"),
    # 160 prefixes of about 2,000 tokens are 1.6 times the 200,000 tokens that the cache is limited to, on any GPU.
    "prefix": Work(
        "8b",
        1280,
        48,
        64,
        {**GPU, "num_gpu_blocks_override": 12_500},
        prefixes=160,
        prefix_words=1500,
        notes="shared prefixes, more than the KV cache (limited to 12,500 blocks) holds; rows shuffled",
    ),
    "duplicates": Work("8b", 2500, 492, 128, GPU, copies=4, notes="every prompt four times, scattered; temperature 0"),
    "mixed": Work("8b", 8000, 65, 100, GPU, long_share=0.03, notes="answers of 32 to 168 tokens, and 3% of 1,000"),
    "small": Work("8b", 64, 492, 128, GPU, notes="64 rows: start-up dominates"),
    "demo": Work("demo", 48, 40, 12, CPU, shortest=4, notes="the demo model on CPU, for trying the script"),
}


def make(work: Work, count: int) -> Iterator[dict[str, Any]]:
    """`count` rows: id, system, user, max_tokens."""
    unique = -(-count // work.copies)
    order = [i % unique for i in range(count)]
    if work.copies > 1 or work.prefixes:
        random.Random("order").shuffle(order)
    for i, source in enumerate(order):
        rng = random.Random(f"row {source}")
        length = int(rng.lognormvariate(0, 0.5) * work.words)
        text = _text(rng, max(20, min(int(3.2 * work.words), length)))
        if work.prefixes:
            text = f"{_prefix(source % work.prefixes, work.prefix_words)}\n\n{text}"
        max_tokens = rng.randint(work.shortest, 2 * work.output_tokens - work.shortest)
        if rng.random() < work.long_share:
            max_tokens = 10 * work.output_tokens
        yield {"id": i, "system": SYSTEM, "user": f"Article:\n{text}\n\n{TASK}", "max_tokens": max_tokens}


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]


def sampling_params(row: dict[str, Any]) -> dict[str, Any]:
    """Greedy, and exactly as long as the row says, so that every contender generates the same number of tokens."""
    return {"max_tokens": int(row["max_tokens"]), "temperature": 0.0, "ignore_eos": True}


def write(work: Work, count: int, model: Path, folder: Path) -> tuple[Path, Path]:
    """The rows, and apart from them their token ids (id, token_ids), as two parquet files in `folder`.

    The ids are what `apply_chat_template(tokenize=True)` gives: what the bare engine answers, and what the others'
    input token counts are held against. The others make their own.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    rows = list(make(work, count))
    ids = [
        tokenizer.apply_chat_template(messages(row), tokenize=True, add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "rows.parquet", folder / "token_ids.parquet"
    pq.write_table(pa.Table.from_pylist(rows), paths[0], row_group_size=ROWS_A_BLOCK)
    pq.write_table(pa.table({"id": [row["id"] for row in rows], "token_ids": ids}), paths[1])
    return paths


def words(rng: random.Random, count: int) -> list[str]:
    # Drawn one by one: slices of one text would now and then begin alike, and the prefix cache would help unasked.
    return rng.choices(_vocabulary(), k=count)


@functools.cache
def _vocabulary() -> list[str]:
    """The sample articles' words, as often as they occur."""
    lines = ARTICLES.read_text(encoding="utf-8").splitlines()
    return re.findall(r"[A-Za-z]{2,}", " ".join(json.loads(line)["article"] for line in lines))


def _text(rng: random.Random, count: int) -> str:
    return " ".join(words(rng, count)) + "."


@functools.cache
def _prefix(index: int, count: int) -> str:
    return _text(random.Random(f"prefix {index}"), count)
