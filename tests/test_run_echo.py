"""Whole runs through a real Ray with the echo engine: rows, errors, faults."""

import json
import os
from pathlib import Path

import pytest

from rayllm_batch import (
    ChatWorkloadBase,
    CNNDailySummary,
    RayLLMBatch,
    SyntheticWithSharedPrefix,
    init_engine_from_config,
)
from rayllm_batch.errors import ClusterError, ConfigError, DatasetError, EngineError, WorkloadError

pytestmark = pytest.mark.ray
ARTICLES = "assets/sample_articles.jsonl"


def echo(**engine_kwargs):
    return init_engine_from_config(
        "configs/demo-cpu.yaml", override={"llm_engine": "echo", "engine_kwargs": {"max_model_len": 4096, **engine_kwargs}}
    )


class Numbered(ChatWorkloadBase):
    """Rows 0..count-1; `calls` is a file that notes each parse_row with its process."""

    count: int = 100
    calls: str = ""
    sampling_params: dict = {"max_tokens": 8}

    def load_dataset(self):
        import ray.data

        return ray.data.range(self.count, override_num_blocks=4)

    def parse_row(self, row):
        if self.calls:
            with open(self.calls, "a") as file:
                file.write(f"{row['id']} {os.getpid()}\n")
        return {"messages": [{"role": "user", "content": f"number {row['id']} of a long list of things to say"}]}


def test_every_row_comes_back_once_with_the_columns_of_the_public_surface(ray_cluster):
    batch = RayLLMBatch(echo(), CNNDailySummary(dataset_file=ARTICLES))
    rows = batch.run().take_all()
    given = [json.loads(line) for line in Path(ARTICLES).read_text(encoding="utf-8").splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in given)
    assert {row["id"]: row["article"] for row in rows} == {row["id"]: row["article"] for row in given}
    assert set(rows[0]) == {
        "id", "article", "highlights", "generated_text", "num_input_tokens", "num_generated_tokens", "finish_reason", "error",
    }
    assert all(row["error"] is None and row["finish_reason"] == "length" for row in rows)
    assert all(row["num_generated_tokens"] == 150 and row["num_input_tokens"] > 150 for row in rows)
    assert all("You are a news editor" in row["generated_text"] for row in rows)
    assert batch.get_avg_engine_time_per_replica() > 0


def test_run_computes_once_and_tokenises_outside_the_engine(ray_cluster, tmp_path):
    calls = tmp_path / "calls"
    batch = RayLLMBatch(engine_cfg=echo(), workload=Numbered(calls=str(calls)))
    dataset = batch.run()
    assert dataset.count() == len(dataset.take_all()) == dataset.to_pandas().shape[0] == 100
    lines = [line.split() for line in calls.read_text().splitlines()]
    workers = [int(pid) for _, pid in lines if int(pid) != os.getpid()]  # the driver tries the first rows
    assert len(workers) == 100
    engine_processes = {replica["pid"] for replica in batch._replicas.values()}
    assert engine_processes and not engine_processes & set(workers)


@pytest.mark.parametrize("fraction", [25, 0.25])
def test_dataset_fraction_takes_the_first_rows_and_order_is_kept_when_asked_for(ray_cluster, fraction):
    batch = RayLLMBatch(echo(), Numbered(dataset_fraction=fraction), batch_size=7, preserve_order=True)
    assert [row["id"] for row in batch.run().take_all()] == list(range(25))


def test_an_error_of_each_stage_lands_in_its_row_and_the_others_go_on(ray_cluster):
    class Mixed(Numbered):
        count: int = 40

        def parse_row(self, row):
            i = row["id"]
            if i == 10:
                raise KeyError("text")
            if i == 11:
                return "not a chat"
            chat = super().parse_row(row)
            if i == 12:
                chat["messages"] = [{"role": "tool", "content": "x"}]
            if i == 13:
                chat["messages"] = [{"role": "user", "content": "long " * 9000}]
            if i == 14:
                chat["messages"] = [{"role": "user", "content": "please fail-here"}]
            if i == 15:
                chat["sampling_params"] = {"max_tokens": 3}
            if i == 16:
                chat["sampling_params"] = {"max_tokens": 3, "temprature": 1}
            return chat

    rows = {r["id"]: r for r in RayLLMBatch(echo(fail_on="fail-here"), Mixed(dataset_fraction=1000)).run().take_all()}
    assert sorted(rows) == list(range(40))
    expected = {
        10: ["parse_row", "KeyError", "'text'", "the row has: id"],
        11: ["parse_row", "'not a chat'"],
        12: ["chat_template", "tool"],
        13: ["tokenize", "max_model_len is 4096"],
        14: ["engine", "fail-here"],
        16: ["sampling_params", "temprature", "temperature"],
    }
    for i, parts in expected.items():
        assert all(part in rows[i]["error"] for part in parts), rows[i]["error"]
        assert rows[i]["generated_text"] == "" and rows[i]["finish_reason"] == "error"
    assert rows[13]["num_input_tokens"] > 4096 and str(rows[13]["num_input_tokens"]) in rows[13]["error"]
    good = [r for i, r in rows.items() if i not in expected]
    assert all(r["error"] is None for r in good)
    assert {r["num_generated_tokens"] for r in good if r["id"] != 15} == {8} and rows[15]["num_generated_tokens"] == 3


def test_a_class_from_a_notebook_cell_works(ray_cluster):
    cell = {"__name__": "__main__", "ChatWorkloadBase": ChatWorkloadBase}
    exec(
        "class Cell(ChatWorkloadBase):\n"
        "    def load_dataset(self):\n"
        "        import ray.data\n"
        "        return ray.data.from_items([{'q': str(i)} for i in range(5)])\n"
        "    def parse_row(self, row):\n"
        "        return {'messages': [{'role': 'user', 'content': row['q']}]}\n",
        cell,
    )
    rows = RayLLMBatch(echo(), cell["Cell"]()).run().take_all()
    assert sorted(row["q"] for row in rows) == list("01234")


def test_synthetic_prompts_have_the_lengths_asked_for(ray_cluster):
    workload = SyntheticWithSharedPrefix(20.0, 4, 60, 30, 5)
    rows = RayLLMBatch(echo(), workload).run().take_all()
    assert len(rows) == 20 and {row["num_generated_tokens"] for row in rows} == {5}
    assert all(90 <= row["num_input_tokens"] <= 180 for row in rows)  # 90 words, in the demo's small vocabulary


def test_two_replicas_share_the_rows(ray_cluster):
    batch = RayLLMBatch(echo(seconds_per_request=3), Numbered(), batch_size=5, num_replicas=2)
    assert batch.run().count() == 100
    assert len(batch._replicas) == 2 and all(replica["rows"] > 0 for replica in batch._replicas.values())


def test_an_engine_that_does_not_start_says_why(ray_cluster):
    with pytest.raises(EngineError, match="did not start.*no kernel image is available"):
        RayLLMBatch(echo(start_error="no kernel image is available"), Numbered()).run()


def test_a_row_that_always_kills_the_engine_ends_the_run_instead_of_looping(ray_cluster):
    with pytest.raises(EngineError, match="(?s)died 3 time.*number 57"):
        RayLLMBatch(echo(crash_on="number 57 "), Numbered(), batch_size=10).run()


@pytest.mark.parametrize(("override", "said"), [
    ({"accelerator_type": "H100"}, "accelerator_type is H100, but the cluster has no GPU, 2 CPUs on 1 node"),
    ({"accelerator_type": "A10G", "engine_kwargs": {"tensor_parallel_size": 8}}, "no GPU, 2 CPUs on 1 node"),
])
def test_gpus_that_the_cluster_lacks(ray_cluster, override, said):
    with pytest.raises(ClusterError, match=said):
        RayLLMBatch(init_engine_from_config("configs/demo-cpu.yaml", override=override), Numbered()).run()


class LacksColumn(CNNDailySummary):
    def load_dataset(self):
        import ray.data

        return ray.data.from_items([{"text": "x"}] * 9)


class ReturnsList(Numbered):
    def load_dataset(self):
        return [1, 2]


class NoRows(Numbered):
    count: int = 0


class Chained(Numbered):
    def load_dataset(self):
        import ray.data

        return ray.data.from_items([{"generated_text": "before"}])


@pytest.mark.parametrize(("workload", "error", "said"), [
    (LacksColumn(), WorkloadError, "parse_row fails on each of the first 8.*'article'.*the row has: text"),
    (ReturnsList(), WorkloadError, "must return a ray.data.Dataset, but returned a list"),
    (NoRows(), DatasetError, "has no rows"),
    (Chained(), DatasetError, "already has the column.*generated_text"),
])
def test_a_workload_that_cannot_run_is_refused_before_an_engine_starts(ray_cluster, workload, error, said):
    with pytest.raises(error, match=said):
        RayLLMBatch(echo(start_error="must not be reached"), workload).run()


@pytest.mark.parametrize("arguments", [{"num_replicas": 0}, {"num_replicas": 1.5}, {"batch_size": 0}, {"batch_size": True}])
def test_sizes_are_checked(arguments):
    with pytest.raises(ConfigError, match="whole number of at least 1"):
        RayLLMBatch(echo(), Numbered(), **arguments)


def test_both_spellings_and_positions_of_the_first_arguments():
    engine, workload = echo(), Numbered()
    for batch in (
        RayLLMBatch(engine, workload), RayLLMBatch(engine_config=engine, workload=workload),
        RayLLMBatch(engine_cfg=engine, workload=workload),
    ):
        assert batch.engine_config is engine and batch.workload is workload
    with pytest.raises(ConfigError, match="two names"):
        RayLLMBatch(engine_config=engine, engine_cfg=engine, workload=workload)
    assert RayLLMBatch.project_1m_token_time(500_000, 30.0, 10.0) == pytest.approx(40.0)
