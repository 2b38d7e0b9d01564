"""The last words of a run: how many failed of what, where the answers are, what to do next."""

from __future__ import annotations

from answers import a_failure

from rayllm_batch import last_words
from rayllm_batch.row_stats import RowStats

ERRORS = [
    *(f"tokenize: the prompt has {n} tokens" for n in range(1000, 1007)), *["parse_row: KeyError: 'a'"] * 3, "engine: x", "engine: x", "b", "c",
]  # fmt: skip


def test_errors_that_differ_in_numbers_are_one_kind_and_the_most_frequent_come_first() -> None:
    lines = last_words.most_frequent(last_words.counted(ERRORS))
    assert lines == ["  7 x tokenize: the prompt has 1000 tokens", "  3 x parse_row: KeyError: 'a'", "  2 x engine: x", "  2 x other errors"]


def test_many_kinds_take_no_more_room() -> None:
    counts = last_words.counted(f"error {'x' * n}" for n in range(500))
    assert len(counts) == last_words.MAX_KINDS + 1 and counts[last_words.OTHERS][0] == 400
    assert last_words.most_frequent(counts)[-1] == "  497 x other errors" and "400 x" not in "".join(last_words.most_frequent(counts)[:3])
    assert all(len(line) < 220 for line in last_words.most_frequent(last_words.counted(["long " * 500])))


def test_blocks_of_replicas_add_up_and_are_taken_out_again() -> None:
    one, other = RowStats(), RowStats()
    for n, error in enumerate(ERRORS):
        (one if n % 2 else other).add(a_failure(error), 0.1)
    total = RowStats.merged([one.as_dict(), other.as_dict()])
    assert sorted(rows for rows, _ in total.errors.values()) == [1, 1, 2, 3, 7]
    total.merge(other.as_dict(), sign=-1)
    assert sorted(rows for rows, _ in total.errors.values()) == sorted(rows for rows, _ in one.errors.values())


def test_of_a_folder() -> None:
    errors = last_words.counted(ERRORS)
    text = last_words.of_folder(20, 14, "5 s", errors, path="out", output_format="parquet", id_column="ticket")
    assert text.startswith("20 rows, 14 failed, 6 answered; 5 s\n  7 x tokenize")
    assert 'pd.read_parquet("out")[["ticket", "generated_text", "error"]], on="ticket", how="left")' in text
    assert text.isascii() and "retry_failed=True (--retry-failed)" in text
    text = last_words.of_folder(20, 0, "5 s", {}, path="s3://b/out", output_format="jsonl", id_column=None)
    assert "retry" not in text and "merge" not in text and 'glob.glob("s3://b/out/*.jsonl")' not in text


def test_of_memory() -> None:
    assert "in memory only" in last_words.of_memory(2, 0, "1 s", {})
