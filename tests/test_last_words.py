"""The last words of a run: how many failed of what, where the answers are, what to do next."""

from __future__ import annotations

from rayllm_batch import last_words
from rayllm_batch.failures import counted

ERRORS = [
    *(f"tokenize: the prompt has {n} tokens" for n in range(1000, 1007)), *["parse_row: KeyError: 'a'"] * 3, "engine: x", "engine: x", "b", "c",
]  # fmt: skip


def test_errors_that_differ_in_numbers_are_one_kind_and_the_most_frequent_come_first() -> None:
    lines = last_words.most_frequent(counted(ERRORS))
    assert lines == ["  7 x tokenize: the prompt has 1000 tokens", "  3 x parse_row: KeyError: 'a'", "  2 x engine: x", "  2 x other errors"]


def test_those_that_were_too_many_to_keep_come_last() -> None:
    lines = last_words.most_frequent(counted(f"engine: {'x' * n}" for n in range(500)))
    assert len(lines) == 4 and lines[-1] == "  497 x other errors"
    assert all(len(line) < 220 for line in last_words.most_frequent(counted(["long " * 500])))


def test_of_a_folder() -> None:
    errors = counted(ERRORS)
    text = last_words.of_folder(20, 14, "5 s", errors, path="out", output_format="parquet", id_column="ticket")
    assert text.startswith("20 rows, 14 failed, 6 answered; 5 s\n  7 x tokenize")
    assert 'pd.read_parquet("out")[["ticket", "generated_text", "error"]], on="ticket", how="left")' in text
    assert text.isascii() and "retry_failed=True (--retry-failed)" in text
    text = last_words.of_folder(20, 0, "5 s", {}, path="s3://b/out", output_format="jsonl", id_column=None)
    assert "retry" not in text and "merge" not in text and 'glob.glob("s3://b/out/*.jsonl")' not in text


def test_of_memory() -> None:
    assert "in memory only" in last_words.of_memory(2, 0, "1 s", {})
