"""What typed answers, rollouts and batch invariance cost, in the engine's own tokens a second.

    python -m bench.answers FOLDER 8b structured          # a JSON schema, against the same rows and lengths without
    python -m bench.answers FOLDER 1b rollout             # a rollout of one call, against rows that come tokenized
    VLLM_BATCH_INVARIANT=1 python -m bench.answers FOLDER 1b plain

One engine of this library's, in this process and without Ray; the kinds take turns, `--pairs` times, and every answer has the
same length. A structured answer is cut in the middle of a text that its schema wants longer, so that lengths are equal.
FOLDER gets the model's shape (bench.models): weights are random, so the speed is real and the text is not. "demo" is the
model that ships with the repository, on CPU. It prints a line a measurement, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import models, rows
from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.engine.vllm import VLLMEngine
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import PromptJob
from rayllm_batch.workers.replica import ReplicaJob
from rayllm_batch.workers.rollouts import Rollouts

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["complaint", "question", "praise"]},
        "parts": {
            "type": "array",
            "minItems": 50,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "minLength": 8}, "count": {"type": "integer"}},
                "required": ["name", "count"],
            },
        },
    },
    "required": ["label", "parts"],
}


class Plain(ChatWorkloadBase):
    pass


class OneCall(ChatWorkloadBase):
    async def rollout(self, row: dict[str, Any], generate: Any) -> dict[str, Any]:
        return {"answer": (await generate([{"role": "user", "content": row["text"]}])).text}


def job_of(workload: Any, config: Any, model: str) -> ReplicaJob:
    task: Any = Generate().of(workload, {})
    made: Any = None
    if task.has_own_columns:

        def made() -> Rollouts:
            return Rollouts(workload.rollout, 600)

    return ReplicaJob("bench", config, PromptJob(dict, model, task=task, rollouts=made), None, deduplicate=False)


async def measure(args: argparse.Namespace) -> None:
    on_cpu = args.shape == "demo"
    model = str(models.make(args.shape, Path(args.folder)))
    kwargs = {**(rows.CPU if on_cpu else rows.GPU), "structured_outputs_config": {"backend": "xgrammar"}}
    engine = VLLMEngine(model, kwargs, "CPU" if on_cpu else "GPU", None)
    config = init_engine_from_config(
        {"model_id": model, "llm_engine": "vllm", "accelerator_type": "CPU" if on_cpu else "GPU"}
    )
    params = {
        "max_tokens": args.output_tokens,
        "min_tokens": args.output_tokens,
        "temperature": 1.0,
        "ignore_eos": True,
    }
    held = {**params, "structured_outputs": {"json": SCHEMA}}
    random = np.random.default_rng(0)

    def answering(workload: Any) -> Answering:
        return Answering(engine, job_of(workload, config, model), Told(), lambda reason: None)

    plain, structured = answering(Plain(sampling_params=params)), answering(Plain(sampling_params=held))
    rolled = answering(OneCall(sampling_params=params)) if args.kind == "rollout" else plain
    words = [f"w{i}" for i in range(1000)]

    def stage(ids: Any) -> dict[str, Any]:
        names = (run_columns.TOKEN_IDS, run_columns.REQUEST, run_columns.STAGE_ERROR, run_columns.MESSAGES)
        return dict(zip(names, (ids, None, None, None), strict=True))

    def fresh() -> np.ndarray:
        return random.integers(300, 1000, args.input_tokens, dtype=np.int32)

    async def timed(name: str, one: Callable[[], Awaitable[Any]]) -> float:
        room, began = asyncio.Semaphore(2 * engine.settings()["max_num_seqs"]), time.perf_counter()

        async def held_one() -> Any:
            async with room:
                return await one()

        answers = await asyncio.gather(*(held_one() for _ in range(args.rows)))
        seconds = time.perf_counter() - began
        tokens = [answer.num_generated_tokens for answer in answers]
        rate = sum(tokens) / seconds
        failed = [answer.error for answer in answers if answer.error and not answer.error.startswith("answer: ")]
        lengths = sorted(set(tokens))
        inputs = sum(answer.num_input_tokens for answer in answers) / len(answers)
        print(
            json.dumps(
                {
                    "kind": name,
                    "tokens_per_s": round(rate, 1),
                    "seconds": round(seconds, 2),
                    "output": lengths[:3],
                    "mean_input": inputs,
                    "failed": failed[:1],
                }
            ),
            flush=True,
        )
        return rate

    def text() -> str:
        return " ".join(words[i] for i in random.integers(0, 1000, args.input_tokens // 3))

    kinds: dict[str, Callable[[], Awaitable[Any]]] = {"plain": lambda: plain.answer(stage(fresh()))}
    if args.kind == "structured":
        kinds["structured"] = lambda: structured.answer(stage(fresh()))
    if args.kind == "rollout":
        job = PromptJob(dict, model)
        from rayllm_batch.workers.prompts import prompt_of

        # The same texts' lengths for both; those of the rows are tokenized before, as the CPU stage does it.
        prompts = [prompt_of([{"role": "user", "content": text()}], job) for _ in range(args.rows)]
        those = iter(prompts * (args.pairs + 1))
        kinds = {
            "parse_row": lambda: plain.answer({**stage(None), **next(those)}),
            "rollout": lambda: rolled.roll(stage(np.empty(0, dtype=np.int32)), {"text": text()}),
        }
    print(json.dumps({"settings": engine.settings(), "arguments": vars(args)}), flush=True)
    for name, one in kinds.items():
        await timed(f"{name}, warming up", one)
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(args.pairs):
        for name, one in kinds.items():
            rates[name].append(await timed(name, one))
    first, *others = rates
    for name in others:
        pairs = [b / a for a, b in zip(rates[first], rates[name], strict=True)]
        print(f"{name} / {first}: {statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})", flush=True)
    print(f"{first}: {statistics.median(rates[first]):,.0f} output tokens/s", flush=True)
    engine.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("shape", choices=["1b", "8b", "demo"])
    parser.add_argument("kind", choices=["structured", "rollout", "plain"])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    asyncio.run(measure(parser.parse_args()))
