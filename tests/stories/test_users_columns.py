"""Columns that the user's own code makes of answers, through a real Ray: parse_answer behind the engine, rollout beside it."""

import asyncio
import json

import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import OutputError, WorkloadError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def echo(**engine_kwargs):
    return init_engine_from_config(
        "configs/demo-cpu.yaml", override={"llm_engine": "echo", "engine_kwargs": engine_kwargs}
    )


class Numbers(ChatWorkloadBase):
    """Of 200 rows, in several blocks; 7 fails in parse_row."""

    rows: int = 200
    sampling_params: dict = {"max_tokens": 6, "temperature": 0.0}

    def load_dataset(self):
        import ray.data

        return ray.data.from_items([{"number": n, "note": f"n{n}"} for n in range(self.rows)], override_num_blocks=5)


def ask(row):
    return [{"role": "user", "content": f"number {row['number']} of a long list of things"}]


class Parsed(Numbers):
    def parse_row(self, row):
        if row["number"] == 7:
            raise ValueError("seven")
        return {"messages": ask(row)}

    def parse_answer(self, row, answer):
        number = row["number"]
        if number == 13:
            raise KeyError("no such label")
        if number == 14:
            return ["not", "columns"]
        if number == 15:
            return {"note": "mine"}
        if number == 16:
            raise SystemExit(3)
        columns = {"words": len(answer["generated_text"].split()), "half": number / 2 if number % 2 else number // 2}
        return {**columns, "of_some": {"number": number}} if number > 190 else columns


def held(rows):
    by_number = {row["number"]: row for row in rows}
    assert sorted(by_number) == list(range(200)) and len(rows) == 200
    assert by_number[7]["error"].startswith("parse_row: ValueError: seven") and by_number[7]["generated_text"] is None
    assert by_number[13]["error"] == "parse_answer: KeyError: 'no such label'"
    assert by_number[14]["error"].startswith("parse_answer: it must return a dict of columns")
    assert "'note'" in by_number[15]["error"] and by_number[16]["error"] == "parse_answer: SystemExit: 3"
    for number in (13, 14, 15, 16):
        row = by_number[number]
        assert row["generated_text"] and row["words"] is None and row["finish_reason"] == "error"
    good = [row for number, row in by_number.items() if number not in (7, 13, 14, 15, 16)]
    assert all(row["error"] is None and row["words"] == len(row["generated_text"].split()) for row in good)
    assert all(row["half"] == row["number"] / 2 for row in good)
    assert sorted(row["of_some"]["number"] for row in good if row["of_some"]) == list(range(191, 200))


def test_further_columns_in_memory(capsys):
    batch = RayLLMBatch(echo(), Parsed(), num_replicas=2, batch_size=16)
    held(batch.run().take_all())
    assert batch.metrics.failed == 5 and "200 rows, 5 failed" in capsys.readouterr().out
    assert batch.metrics.finish_reasons["error"] == 5


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_further_columns_in_a_folder_that_is_continued(tmp_path, output_format, capsys):
    config, folder = echo(), tmp_path / "out"
    batch = RayLLMBatch(config, Parsed(dataset_fraction=90), num_replicas=1, batch_size=16)
    batch.run(output_path=folder, output_format=output_format)
    assert "90 rows, 5 failed" in capsys.readouterr().out
    batch = RayLLMBatch(config, Parsed(), num_replicas=1, batch_size=16)
    held(batch.run(output_path=folder, output_format=output_format).take_all())
    out = capsys.readouterr().out
    assert "90 rows are in" in out and "200 rows, 5 failed" in out
    assert batch.metrics.rows == 110


def test_the_preview_has_been_parsed(capsys):
    RayLLMBatch(echo(), Parsed(), num_replicas=1).preview(14)
    out = capsys.readouterr().out
    assert (
        "KeyError: 'no such label'" in out and "    words: " in out and "    half: 0.0\n" in out and "note" not in out
    )
    RayLLMBatch.release()


class Turns(Numbers):
    """Each row asks twice and votes; some rows do what user code does."""

    rollout_timeout_s: float = 20.0

    async def rollout(self, row, generate):
        if row["number"] == 7:
            raise ValueError("seven")
        first = await generate(ask(row))
        several = await asyncio.gather(*(generate(ask(row), max_tokens=n) for n in (1, 2)))
        return {"first": first.text, "lengths": [one.num_generated_tokens for one in several]}


def turned(rows):
    assert sorted(row["number"] for row in rows) == list(range(200))
    for row in rows:
        if row["number"] == 7:
            assert row["error"] == "rollout: ValueError: seven" and row["first"] is None
        else:
            assert row["error"] is None and row["lengths"] == [1, 2] and row["num_requests"] == 3
            assert row["num_generated_tokens"] == 9 and row["first"]


def test_rollouts_in_memory_and_with_kept_engines():
    batch = RayLLMBatch(echo(), Turns(), num_replicas=2, batch_size=16)
    batch.preview(2)
    turned(batch.run().take_all())
    assert batch.metrics.num_generated_tokens == 199 * 9 and batch.metrics.failed == 1


class Alone:
    """No ChatWorkloadBase, and no parse_row."""

    sampling_params = {"max_tokens": 3}  # noqa: RUF012

    def load_dataset(self):
        import ray.data

        return ray.data.from_items([{"number": n} for n in range(4)])

    async def rollout(self, row, generate):
        return {"said": (await generate(ask(row))).text}


def test_a_rollout_of_a_class_of_its_own():
    rows = RayLLMBatch(echo(), Alone(), num_replicas=1).run().take_all()
    assert len(rows) == 4 and all(row["said"] and row["error"] is None for row in rows)


def test_how_long_rollouts_take_is_not_guessed():
    with pytest.raises(WorkloadError, match="dataset_fraction=100"):
        RayLLMBatch(echo(), Turns(), num_replicas=1).estimate()


def test_a_folder_of_rollouts_is_continued_and_knows_other_code(tmp_path, capsys):
    config, folder = echo(), tmp_path / "out"
    RayLLMBatch(config, Turns(dataset_fraction=90), num_replicas=1, batch_size=16).run(output_path=folder)
    batch = RayLLMBatch(config, Turns(), num_replicas=1, batch_size=16)
    turned(batch.run(output_path=folder).take_all())
    assert batch.metrics.rows == 110

    class Other(Turns):
        async def rollout(self, row, generate):
            return {"first": "other", "lengths": []}

    with pytest.raises(OutputError, match="199 something else"):
        RayLLMBatch(config, Other(), num_replicas=1).run(output_path=folder)
    done = RayLLMBatch(config, Other(), num_replicas=1).run(output_path=folder, changed="redo").take_all()
    assert [row["first"] for row in done if row["number"] != 7] == ["other"] * 199
    assert json.dumps(batch.metrics.to_dict())


class Texts(Numbers):
    def parse_row(self, row):
        return {"prompt": f"number {row['number']}"} if row["number"] else {"prompt": ""}


def test_texts_without_a_chat():
    rows = RayLLMBatch(echo(), Texts(dataset_fraction=20), num_replicas=1).run().take_all()
    assert {row["number"]: row["error"] is None for row in rows} == {n: n > 0 for n in range(20)}
    assert all("number" in row["generated_text"] for row in rows if row["number"])


def test_both_ways_at_once_are_refused():
    class Both(Turns):
        def parse_answer(self, row, answer):
            return {}

    with pytest.raises(WorkloadError, match="remove the other"):
        RayLLMBatch(echo(), Both())
