"""How a run is laid out: how many engines, with which of vLLM's limits, and how many rows on their way to each.

What the user has set stays as it is. The rest is chosen here, where batch_size is None, and said in one line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.cluster.resources import spans_nodes
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.engine_args import UTILIZATION
from rayllm_batch.engine.parallel import copies
from rayllm_batch.errors import ConfigError
from rayllm_batch.run.adapters import NO_ADAPTERS, Found, with_places
from rayllm_batch.run.model_check import (
    BESIDE_GIB,
    GIB,
    GPU_MEMORY_GIB,
    ModelFacts,
    check_memory,
    kv_bytes_per_token,
    weights_gib,
)
from rayllm_batch.tasks.base import Task

# A block costs the driver and Ray some work, whatever its size, and some 5 KB that Ray keeps in the driver until the
# run ends: 300,000 short rows went through the echo engine at 850 rows/s in blocks of 64, the driver growing by 22 MiB,
# and at 1,770 in blocks of 256 without growth (2 cores, one run each). So a long job's blocks are larger, but at most a
# sixth of what is in flight, so that they flow; and each engine gets enough of them to share the work evenly.
BLOCK_ROWS, MOST_BLOCK_ROWS = 64, 512
MEDIA_BLOCK_ROWS = 16  # of rows with media, which are some MB each
FEWEST_BLOCKS, FEWEST_LARGE_BLOCKS, FEWEST_IN_FLIGHT = 8, 32, 6  # an engine; the last where blocks are larger than 64
# Rows on their way in each engine, over max_num_seqs. A block keeps its place until its slowest row is done, so where
# some answers are ten times as long as the mean, 3 leave the engine half empty (0.3 to 0.6 of it in use in a
# simulation, 1.0 with 12; of evenly spread lengths 1.0 with 3). But what one engine has taken no other can take, so it
# is at most a quarter of an engine's share of the job, and no more memory than this.
FEWEST_IN_FLIGHT_RATIO, UNKNOWN_IN_FLIGHT_RATIO, IN_FLIGHT_RATIO = 3, 6, 16
IN_FLIGHT_BYTES, BYTES_PER_TOKEN = 1 << 30, 8  # in Ray's object store: of a token, its id and its text
MOST_BLOCKS = 64  # in each engine, of those beyond the fewest: each is a thread of its actor
QUEUED_BLOCKS = 6
LARGE_GPU_GIB = 70  # from here on vLLM's own max_num_seqs for LLM() is 1,024, below 256 (its arg_utils.py)
# On H100s with 2.3 GiB of weights, two engines gave 1.6 to 2.2 times what one gives, and three 1.05 to 1.3 times what
# two give (bench/RESULTS.md). Each starts after the one before, which takes 30 to 80 s: not worth it for a job that is
# over by then.
SMALL_WEIGHTS_GIB = 3.0
ROWS_FOR_ENGINES = {3: 60_000, 2: 20_000}  # on a GPU
# Of embeddings three engines gave 3.3 (BERT-base) and 1.8 times (Qwen3's 0.6B) what one gives on an H200, which answers
# 2,000 rows of 128 tokens a second: rows are so short that the job must be longer. Two were not measured.
POOLED_ROWS_FOR_ENGINES = {3: 300_000, 2: 100_000}
# Of max_num_seqs, where more fit: 2,048 gave 1.15 times what 1,024 gives for 1B on an H100 (bench/RESULTS.md); 4,096
# gave no more. Half of that on smaller GPUs, since the engine keeps memory free for so many rows of logits.
MOST_SEQS = 2048


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a sample's rows. output: how many they may have, from max_tokens."""

    input: float
    output: float


@dataclass(frozen=True)
class Plan:
    """config: with what was chosen. engines: how many at least and at most. why: what was chosen, in words.

    batch_size: the user's, or None. input_tokens: of a row, where known. turns: in how many an engine computes a mix of
    rows, since it has places for so many LoRA adapters at once. with_media: rows have pictures, or more. at_least:
    rows, where their number is not known.
    """

    config: EngineConfig
    engines: tuple[int, int]
    batch_size: Optional[int] = None
    why: tuple[str, ...] = ()
    input_tokens: Optional[float] = None
    turns: float = 1.0
    with_media: bool = False
    at_least: int = 0

    def rows_a_block(self, total: Optional[int]) -> int:
        """Small jobs get small blocks, so that every engine has several. total: the number of rows, where known."""
        if self.batch_size is not None:
            return self.batch_size
        if self.with_media:
            fewer = MEDIA_BLOCK_ROWS if total is None else total // self.engines[1] // FEWEST_BLOCKS
            return max(1, min(MEDIA_BLOCK_ROWS, fewer))
        large = min(MOST_BLOCK_ROWS, FEWEST_IN_FLIGHT_RATIO * self._max_num_seqs // FEWEST_IN_FLIGHT)
        if total is None:  # it may be small, and then several engines should share it
            small = max(BLOCK_ROWS, large // 2) if self.engines[1] == 1 else BLOCK_ROWS
            return max(small, min(large, self.at_least // self.engines[1] // FEWEST_LARGE_BLOCKS))
        share = total // self.engines[1]
        return max(1, min(BLOCK_ROWS, share // FEWEST_BLOCKS), min(large, share // FEWEST_LARGE_BLOCKS))

    def blocks_in_flight(self, total: Optional[int]) -> int:
        """Blocks that an engine takes at once: enough to keep it full, and of a small job no more than its share.

        Where the number of rows is not known, the engine that is ready first takes all of a small job.
        """
        block = self.rows_a_block(total)
        needed = math.ceil(self._fewest_in_flight / block)
        enough = max(2, needed, min(MOST_BLOCKS, math.ceil(self._rows_in_flight(total) / block)))
        return enough if total is None else min(enough, max(2, self._share(total)))

    def blocks_queued(self, total: Optional[int]) -> int:
        """Blocks that wait with an engine beyond those, so that a finished one's place is taken at once.

        They are of its share too: of 5,000 rows, which were but 65 blocks, 6 that waited with the one of two engines
        that was half a second earlier cost two GPUs a fifth of their time (bench/tail.py).
        """
        in_flight = self.blocks_in_flight(total)
        queued = min(QUEUED_BLOCKS, (in_flight + 1) // 2)
        return queued if total is None else min(queued, max(0, self._share(total) - in_flight))

    def _share(self, total: int) -> int:
        return math.ceil(total / self.rows_a_block(total) / self.engines[1])

    def _rows_in_flight(self, total: Optional[int]) -> int:
        """For each engine, of a job that has enough."""
        most = IN_FLIGHT_RATIO * self._max_num_seqs
        if self.input_tokens:
            most = min(most, int(IN_FLIGHT_BYTES / BYTES_PER_TOKEN / self.input_tokens))
        if self.engines[1] > 1:
            unknown = UNKNOWN_IN_FLIGHT_RATIO * self._max_num_seqs
            most = min(most, unknown if total is None else total // self.engines[1] // 4)
        return max(self._fewest_in_flight, most)

    @property
    def _fewest_in_flight(self) -> int:
        return int(min(FEWEST_IN_FLIGHT_RATIO * self.turns, IN_FLIGHT_RATIO) * self._max_num_seqs)

    @property
    def _max_num_seqs(self) -> int:
        at_once = self.config.engine_kind.at_once(self.config.engine_kwargs)
        return copies(self.config.engine_kwargs) * (at_once or own_max_num_seqs(self.config.accelerator_type))

    def chosen(self, total: Optional[int]) -> str:
        """The line that says it; "" where the user has left nothing to choose."""
        if self.batch_size is not None:
            return ""
        block, blocks = self.rows_a_block(total), self.blocks_in_flight(total)
        rows = block * blocks if total is None else min(total, block * blocks)
        chosen = f"Chosen: blocks of {block} row(s), up to {rows:,} rows on their way to each engine"
        return "; ".join([chosen, *self.why]) + "."


def make_plan(
    config: EngineConfig,
    facts: ModelFacts,
    num_replicas: tuple[int, int],
    *,
    batch_size: Optional[int],
    total: Optional[int],
    lengths: Optional[Lengths],
    adapters: Found = NO_ADAPTERS,
    with_media: bool = False,
    at_least: int = 0,
) -> Plan:
    """num_replicas: at least and at most. total: the number of rows, lengths: their tokens, where these are known.

    at_least: of rows whose number is not known, so many there are.
    """
    why = []
    if batch_size is None and config.gpus_per_replica:
        if sharing := _engines_that_gain(config, facts, total, num_replicas[1]):
            config = dataclasses.replace(config, engines_per_gpu=sharing)
            why.append(
                f"{sharing} engines on each GPU, since one leaves an {config.accelerator_type} idle half of the time "
                f"with a model of {weights_gib(config, facts):.1f} GiB (engines_per_gpu: 1 in the config for one)"
            )
        elif not config.task_kind.pools and (seqs := _more_seqs(config, facts, total, lengths)):
            own = own_max_num_seqs(config.accelerator_type)
            config = dataclasses.replace(config, engine_kwargs={**config.engine_kwargs, "max_num_seqs": seqs})
            why.append(f"max_num_seqs={seqs:,} (vLLM's own: {own:,}), since the KV cache holds more of these rows")
    config, places, turns = with_places(config, facts, adapters)
    why += [places] if places else []
    least, most = (number * config.engines_per_replica for number in num_replicas)
    config = dataclasses.replace(config, engine_kwargs=config.engine_kind.each_engines(config.engine_kwargs, most))
    tokens = lengths.input if lengths else None
    return Plan(config, (least, most), batch_size, tuple(why), tokens, turns, with_media, at_least)


def own_max_num_seqs(accelerator_type: str) -> int:
    """vLLM's own, for LLM() on that GPU; of one whose memory is not known, the larger."""
    is_large = GPU_MEMORY_GIB.get(accelerator_type, LARGE_GPU_GIB) >= LARGE_GPU_GIB
    return 1024 if is_large and accelerator_type != "CPU" and not accelerator_type.startswith("A100") else 256


def lengths_of(chats: Sequence[dict[str, Any]], task: Task, folder: Optional[Path]) -> Optional[Lengths]:
    """Of some rows' chats, nearly: the chat template's own tokens are not counted. None where it cannot be known.

    folder: where the model's tokenizer.json is, if it has one. transformers is not used: to import it takes seconds,
    which every start would pay.
    """
    most = (task.most_generated_tokens({**task.settings, **(chat.get(task.settings_key) or {})}) for chat in chats)
    outputs: list[int] = [tokens for tokens in most if tokens is not None]
    prompts = [chat for chat in chats if len(chat.get("prompt_token_ids", "?"))]  # a rollout's are not known
    with_media = any("media" in chat for chat in chats)  # whose tokens are not counted here
    if with_media or folder is None or not outputs or not prompts or len(outputs) < len(chats):
        return None
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        texts = ["\n".join(message["content"] for message in chat["messages"]) for chat in chats if "messages" in chat]
        texts += [chat["prompt"] for chat in chats if "prompt" in chat]
        texts += [" ".join([chat["query"], *chat["documents"]]) for chat in chats if "documents" in chat]
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half a surrogate pair: that row's error
        inputs = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    except Exception:  # it is not installed here, or the file not there, or a text is nothing for it
        return None
    inputs += [len(chat["prompt_token_ids"]) for chat in chats if "prompt_token_ids" in chat]
    if len(inputs) < len(chats):  # of a kind that is not looked into here, such as a batch file's list of texts
        return None
    return Lengths(sum(inputs) / len(inputs), sum(outputs) / len(outputs))


def _engines_that_gain(config: EngineConfig, facts: ModelFacts, total: Optional[int], gpus: int) -> Optional[int]:
    """How many on a GPU were measured to give more than one, where each has room for the longest request; None else."""
    given = config.engines_per_gpu is not None or "gpu_memory_utilization" in config.engine_kwargs
    if given or config.gpus_per_replica != 1 or spans_nodes(config):
        return None
    if config.accelerator_type not in GPU_MEMORY_GIB or own_max_num_seqs(config.accelerator_type) < 1024:
        return None
    weights, pools = weights_gib(config, facts), config.task_kind.pools
    if not weights or weights > SMALL_WEIGHTS_GIB or not (pools or kv_bytes_per_token(config, facts)):
        return None  # of what pools, an encoder has no cache, and a request takes no more than its prompt
    for_engines = POOLED_ROWS_FOR_ENGINES if pools else ROWS_FOR_ENGINES
    rows = min(for_engines.values()) if total is None else total // gpus
    longest = config.engine_kwargs.get("max_model_len") or facts.config.get("max_position_embeddings")
    kwargs = {**config.engine_kwargs, "max_model_len": longest}
    for engines, needed in for_engines.items():
        if rows < needed:
            continue
        try:
            check_memory(dataclasses.replace(config, engines_per_gpu=engines, engine_kwargs=kwargs), facts)
        except ConfigError:  # they do not fit
            continue
        return engines
    return None


def _more_seqs(
    config: EngineConfig, facts: ModelFacts, total: Optional[int], lengths: Optional[Lengths]
) -> Optional[int]:
    """A max_num_seqs above vLLM's own, where the KV cache holds so many of these rows; None else."""
    weights, per_token = weights_gib(config, facts), kv_bytes_per_token(config, facts)
    memory = GPU_MEMORY_GIB.get(config.accelerator_type)
    if "max_num_seqs" in config.engine_kwargs or not (weights and per_token and memory and lengths):
        return None
    room = (memory * (config.memory_share or UTILIZATION) - BESIDE_GIB) * GIB - weights * GIB
    # Not where engines share a GPU: 1,024 each is what was measured.
    fit = room / per_token / (lengths.input + lengths.output / 2) if config.gpus_per_replica >= 1 else 0
    own = own_max_num_seqs(config.accelerator_type)
    # vLLM refuses a step that has fewer tokens than sequences.
    tokens = config.engine_kwargs.get("max_num_batched_tokens") or MOST_SEQS
    seqs, most = own, min(MOST_SEQS if memory >= LARGE_GPU_GIB else MOST_SEQS // 2, tokens)
    while 2 * seqs <= min(fit, most) and (total is None or total > seqs):
        seqs *= 2
    return seqs if seqs > own else None
