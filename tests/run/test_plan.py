"""What batch_size=None chooses, and that it leaves alone what the user has set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.run.plan import QUEUED_BLOCKS, Lengths, Plan, lengths_of, make_plan, own_max_num_seqs
from rayllm_batch.tasks.generate import Generate

GENERATE = Generate()

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets" / "demo-model"
GIB = 1 << 30
LLAMA_1B = ModelFacts(
    {
        "model_type": "llama",
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "hidden_size": 2048,
        "dtype": "bfloat16",
    },
    int(2.3 * GIB),
)
LLAMA_8B = ModelFacts(
    {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "dtype": "bfloat16",
    },
    15 * GIB,
)
SHORT = Lengths(145, 256)


def plan(
    accelerator: str,
    facts: ModelFacts,
    *,
    batch_size: Optional[int] = None,
    total: Optional[int] = None,
    lengths: Optional[Lengths] = SHORT,
    replicas: int = 1,
    engines_per_gpu: Optional[int] = None,
    task: str = "generate",
    **engine_kwargs: Any,
) -> Plan:
    config = init_engine_from_config(
        {
            "model_id": "org/model",
            "task": task,
            "llm_engine": "vllm",
            "accelerator_type": accelerator,
            "engine_kwargs": engine_kwargs,
            "engines_per_gpu": engines_per_gpu,
        }
    )
    return make_plan(config, facts, (replicas, replicas), batch_size=batch_size, total=total, lengths=lengths)


# --- engines that share a GPU


def test_two_engines_share_a_large_gpu_where_the_model_is_small_and_the_job_long() -> None:
    small = plan("H100", LLAMA_1B, replicas=3)
    assert (small.engines, small.config.engines_per_gpu, small.config.memory_share) == ((6, 6), 2, 0.45)
    assert small.config.gpus_per_replica == 0.5
    for words in ("2 engines on each GPU", "H100", "2.3 GiB", "engines_per_gpu: 1"):
        assert words in small.chosen(None)


@pytest.mark.parametrize(
    ("total", "more", "engines"),
    [
        (60_000, {}, 3),
        (59_999, {}, 2),
        (20_000, {}, 2),
        (119_999, {"replicas": 2}, 2),
        (120_000, {"replicas": 2}, 3),
        # 32 KiB a token are 25 GiB for 819,200, of the 36 that a half of the GPU has, but not of the 22 of a third
        (60_000, {"max_model_len": 819_200}, 2),
    ],
)
def test_a_longer_job_has_three(total: int, more: dict[str, Any], engines: int) -> None:
    made = plan("H100", LLAMA_1B, total=total, **more)
    assert made.config.engines_per_gpu == engines and made.engines == (engines * more.get("replicas", 1),) * 2
    assert f"{engines} engines on each GPU" in made.chosen(total)


@pytest.mark.parametrize(
    ("accelerator", "facts", "more"),
    [
        ("A10G", LLAMA_1B, {}),
        ("A100", LLAMA_1B, {}),  # it may have 40 GB, and was not measured
        ("H100", LLAMA_8B, {}),
        ("H100", ModelFacts(), {}),
        ("CPU", LLAMA_1B, {}),
        ("H100", LLAMA_1B, {"total": 5000}),  # over before the second engine is there
        ("H100", LLAMA_1B, {"batch_size": 64}),
        ("H100", LLAMA_1B, {"engines_per_gpu": 1}),
        ("H100", LLAMA_1B, {"tensor_parallel_size": 2}),
        ("H100", LLAMA_1B, {"gpu_memory_utilization": 0.9}),
        # 32 KiB a token are 31 GiB for a million, of the 36 that half of the GPU has beside 2.3 of weights; 40 for 1.3
        # million
        ("H100", LLAMA_1B, {"max_model_len": 1_300_000}),
        ("H100", dataclasses.replace(LLAMA_1B, config={**LLAMA_1B.config, "max_position_embeddings": 1_300_000}), {}),
        (
            "H100",
            dataclasses.replace(LLAMA_1B, config={**LLAMA_1B.config, "model_type": "mamba"}),
            {},
        ),  # its cache is not known
    ],
)
def test_one_engine_elsewhere(accelerator: str, facts: ModelFacts, more: dict[str, Any]) -> None:
    one = plan(accelerator, facts, **more)
    assert one.engines == (1, 1)
    assert one.config.engines_per_gpu in (None, 1)


MINILM = ModelFacts(  # sentence-transformers/all-MiniLM-L6-v2
    {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 6, "num_attention_heads": 12}
    | {"hidden_size": 384, "max_position_embeddings": 512},
    91 << 20,
)


@pytest.mark.parametrize(
    ("total", "engines"), [(None, 2), (99_999, None), (100_000, 2), (299_999, 2), (300_000, 3), (50_000_000, 3)]
)
@pytest.mark.parametrize("task", ["embed", "classify", "score"])
def test_a_small_model_that_pools_shares_a_large_gpu_in_longer_jobs(
    task: str, total: Optional[int], engines: Optional[int]
) -> None:
    assert plan("H200", MINILM, task=task, total=total, lengths=None).config.engines_per_gpu == engines
    assert plan("L4", MINILM, task=task, total=total, lengths=None).config.engines_per_gpu is None


def test_a_task_that_pools_keeps_the_engines_own_number_of_sequences() -> None:
    made = plan("H100", LLAMA_1B, task="embed", total=50_000, lengths=Lengths(145, 0))
    assert "max_num_seqs" not in made.config.engine_kwargs


def test_as_many_engines_as_the_config_says() -> None:
    three = plan("A10G", LLAMA_1B, engines_per_gpu=3, replicas=2, batch_size=64)
    assert (three.engines, three.config.memory_share) == ((6, 6), 0.3)


# --- max_num_seqs


def test_more_sequences_where_the_kv_cache_holds_them() -> None:
    # By hand: 80 GiB x 0.92 less 2.3 and 2 are 69.3 GiB; a token takes 2 x 16 x 8 x 64 x 2 bytes = 32 KiB, so 2.27
    # million tokens (the engine itself said 2,272,368), which are 8,300 requests of 145 + 128 tokens.
    more = plan("H100", LLAMA_1B, engines_per_gpu=1)
    assert more.config.engine_kwargs == {"max_num_seqs": 2048}
    assert "max_num_seqs=2,048 (vLLM's own: 1,024)" in more.chosen(None)
    assert (
        plan("H100", LLAMA_1B, engines_per_gpu=1, total=900).config.engine_kwargs == {}
    )  # it has no more rows than that
    # 22.5 x 0.92 less 4.3 are 16.4 GiB, 537,000 tokens, 1,968 requests; at most 1,024 on a small GPU
    assert plan("A10G", LLAMA_1B).config.engine_kwargs == {"max_num_seqs": 1024}
    assert plan("A10G", LLAMA_1B, lengths=Lengths(700, 256)).config.engine_kwargs == {"max_num_seqs": 512}
    assert plan("A10G", LLAMA_1B, max_num_batched_tokens=600).config.engine_kwargs == {
        "max_num_batched_tokens": 600,
        "max_num_seqs": 512,
    }
    # Over four GPUs each has a fourth: 30 GiB of weights, 80 KiB a token, 41.6 GiB for 545,000 tokens, 619 requests
    large = ModelFacts({**LLAMA_8B.config, "num_hidden_layers": 80, "hidden_size": 4096}, 120 * GIB)
    assert plan("H100", large, lengths=Lengths(817, 128), tensor_parallel_size=4).config.engine_kwargs == {
        "tensor_parallel_size": 4
    }
    # 56.6 GiB, 128 KiB a token: 464,000 tokens (the engine said 457,872), 527 requests of 817 + 64
    assert plan("H100", LLAMA_8B, lengths=Lengths(817, 128)).config.engine_kwargs == {}


@pytest.mark.parametrize("more", [{"max_num_seqs": 64}, {"batch_size": 8}, {"lengths": None}])
def test_the_users_limits_and_unknown_lengths_leave_it_to_vllm(more: dict[str, Any]) -> None:
    given = {key: value for key, value in more.items() if key == "max_num_seqs"}
    assert plan("A10G", LLAMA_1B, **more).config.engine_kwargs == given


def test_limits_are_those_of_vllm() -> None:
    assert own_max_num_seqs("H100") == own_max_num_seqs("H200") == 1024
    assert own_max_num_seqs("A10G") == own_max_num_seqs("A100") == own_max_num_seqs("CPU") == 256
    assert own_max_num_seqs("GPU") == 1024  # of an unknown one: rows that wait cost little, an engine that starves does


# --- rows on their way


def test_small_jobs_get_small_blocks_and_no_engine_takes_more_than_its_share() -> None:
    two = plan("A10G", LLAMA_8B, replicas=2, lengths=None)
    assert [two.rows_a_block(total) for total in (None, 1, 64, 2048)] == [64, 1, 4, 64]
    assert two.blocks_in_flight(None) == 24  # by hand: 6 x 256 rows in blocks of 64
    assert two.blocks_in_flight(64) == 8  # 16 blocks of 4 for two engines
    assert "blocks of 4 row(s), up to 32 rows on their way to each engine." in two.chosen(64)
    assert dataclasses.replace(two, batch_size=16).rows_a_block(64) == 16
    assert dataclasses.replace(two, batch_size=16).chosen(64) == ""


def test_a_long_job_has_larger_blocks() -> None:
    large = plan("H100", LLAMA_8B)
    assert [large.rows_a_block(total) for total in (2000, 4096, 8192, 1_000_000)] == [
        64,
        128,
        256,
        512,
    ]  # at least 32 of them
    assert plan("H100", LLAMA_8B, replicas=4).rows_a_block(8192) == 64, "32 for each engine"
    assert plan("A10G", LLAMA_8B, lengths=None).rows_a_block(1_000_000) == 128, "three blocks could not keep it full"
    assert plan("A10G", LLAMA_8B, max_num_seqs=16).rows_a_block(1_000_000) == 64
    assert plan("H100", LLAMA_8B, batch_size=64).rows_a_block(1_000_000) == 64
    assert (large.rows_a_block(None), plan("H100", LLAMA_8B, replicas=2).rows_a_block(None)) == (256, 64)


@pytest.mark.parametrize(
    ("at_least", "replicas", "block"),
    [(0, 8, 64), (8 * 32 * 64, 8, 64), (8 * 32 * 200, 8, 200), (10**8, 64, 512), (10**8, 1, 512), (0, 1, 256)],
)
def test_files_that_are_large_enough_speak_for_large_blocks(at_least: int, replicas: int, block: int) -> None:
    of = dataclasses.replace(plan("H100", LLAMA_8B, replicas=replicas), at_least=at_least)
    assert of.rows_a_block(None) == block


@pytest.mark.parametrize(
    ("total", "more", "rows"),
    [
        (1_000_000, {}, 16_384),  # 16 x 1,024: answers of very different lengths
        (5000, {}, 5148),  # all there are, in 33 blocks of 156
        (None, {}, 16_384),
        (1_000_000, {"replicas": 8}, 16_384),
        (160_000, {"replicas": 8}, 5120),  # a quarter of each engine's 20,000, in blocks of 512
        (160_000, {"replicas": 16}, 3120),  # 3 x 1,024 in any case, in blocks of 312
        (None, {"replicas": 8}, 4096),  # 64 blocks of 64
        (1_000_000, {"lengths": Lengths(20_000, 100)}, 7168),  # 1 GiB of 160 KB each: 6,710
        (1_000_000, {"lengths": Lengths(100_000, 100)}, 3072),
        (1_000_000, {"batch_size": 8}, 3072),  # as threads they are many as it is
        (1_000_000, {"max_num_seqs": 16}, 256),
    ],
)
def test_rows_on_their_way(total: Optional[int], more: dict[str, Any], rows: int) -> None:
    made = plan("H100", LLAMA_8B, **more)
    assert made.rows_a_block(total) * made.blocks_in_flight(total) == rows


@pytest.mark.parametrize("total", [3, 64, 500, 1800, 5000, 7777, 20_000, 1_000_000])
@pytest.mark.parametrize("replicas", [2, 3, 8])
def test_no_engine_is_given_more_than_its_share_to_wait_with_it(total: int, replicas: int) -> None:
    made = plan("H100", LLAMA_8B, replicas=replicas)
    blocks = -(-total // made.rows_a_block(total))
    assert made.blocks_in_flight(total) + made.blocks_queued(total) <= max(2, -(-blocks // replicas))
    assert made.blocks_queued(None) == made.blocks_queued(100_000_000) == QUEUED_BLOCKS


# --- lengths


def chat(content: Any, **own: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **own}


def test_lengths_come_from_the_first_rows() -> None:
    from tokenizers import Tokenizer

    chats = [chat("one two three"), chat("four", sampling_params={"max_tokens": 100})]
    by_hand = [
        len(Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text, add_special_tokens=False).ids)
        for text in ("one two three", "four")
    ]
    assert lengths_of(chats, Generate({"max_tokens": 20}), MODEL) == Lengths(sum(by_hand) / 2, 60)


def test_lengths_of_token_ids() -> None:
    from tokenizers import Tokenizer

    words = len(Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode("one two", add_special_tokens=False).ids)
    assert lengths_of(
        [chat("one two"), {"prompt_token_ids": [1] * 50}], Generate({"max_tokens": 20}), MODEL
    ) == Lengths((words + 50) / 2, 20)


def test_lengths_that_cannot_be_known(tmp_path: Path) -> None:
    assert lengths_of([chat("a")], Generate({}), MODEL) is None  # an answer may be as long as the model likes
    assert lengths_of([chat("a")], Generate({"max_tokens": 5}), None) is None
    assert lengths_of([chat("a")], Generate({"max_tokens": 5}), tmp_path) is None
    assert lengths_of([], Generate({"max_tokens": 5}), MODEL) is None
    assert lengths_of([{"texts": ["a", "b"]}], Generate({"max_tokens": 5}), MODEL) is None  # of a batch file's line


def test_lengths_of_texts_that_are_nothing_for_the_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))  # which it has not
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    assert lengths_of([chat("a a")], Generate({"max_tokens": 5}), tmp_path) == Lengths(2, 5)
    assert lengths_of([chat("a b")], Generate({"max_tokens": 5}), tmp_path) is None
    assert lengths_of([chat("half of \ud83d a pair")], Generate({"max_tokens": 5}), MODEL) is not None
