"""Training batches from several processes at once: one alone cannot keep a GPU busy.

Nothing here imports torch, which each process would otherwise load again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

from tokenizers import Tokenizer

from examples import Batch, Round, make_batch


def serve(queue: multiprocessing.Queue, tokenizer: str, round: Round, steps: range) -> None:
    """A worker's main: puts the batches of `steps` on its queue, in order."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    restored = Tokenizer.from_str(tokenizer)
    for step in steps:
        queue.put(make_batch(restored, round, step))


def feed(tokenizer: Tokenizer, round: Round, workers: int) -> Iterator[Batch]:
    """All batches of the round in order, the same ones however many workers make them."""
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(maxsize=8) for _ in range(workers)]
    for number, queue in enumerate(queues):
        steps = range(number, round.steps, workers)
        context.Process(target=serve, args=(queue, tokenizer.to_str(), round, steps), daemon=True).start()
    for step in range(round.steps):
        yield queues[step % workers].get()
