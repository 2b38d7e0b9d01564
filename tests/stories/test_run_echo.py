"""Whole runs through a real Ray with the echo engine: rows, errors, faults."""

import json
import os
import re
import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from rayllm_batch import (
    ChatWorkloadBase,
    CNNDailySummary,
    RayLLMBatch,
    SyntheticWithSharedPrefix,
    init_engine_from_config,
)
from rayllm_batch.data import dataset_file, file_part
from rayllm_batch.errors import ClusterError, ConfigError, DatasetError, EngineError, PreflightError, WorkloadError
from rayllm_batch.run import warm

pytestmark = pytest.mark.ray
ARTICLES = "assets/sample_articles.jsonl"


def echo(**engine_kwargs):
    return init_engine_from_config(
        "configs/demo-cpu.yaml",
        override={"llm_engine": "echo", "engine_kwargs": {"max_model_len": 4096, **engine_kwargs}},
    )


class Numbered(ChatWorkloadBase):
    """Rows 0..count-1."""

    count: int = 100
    sampling_params: dict = {"max_tokens": 8}

    def load_dataset(self):
        import ray.data

        return ray.data.range(self.count, override_num_blocks=4)

    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": f"number {row['id']} of a long list of things to say"}]}


def prometheus_rows(ray, run_id) -> dict[str, float]:
    """What the node's endpoint says of a run: the rows of each replica."""
    node = next(node for node in ray.nodes() if node["Alive"])
    with urllib.request.urlopen(
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}", timeout=10
    ) as answer:
        lines = answer.read().decode().splitlines()
    of_run = [
        line for line in lines if line.startswith("ray_rayllm_batch_rows_total{") and f'run_id="{run_id}"' in line
    ]
    return {re.search(r'replica="(\w+)"', line)[1]: float(line.split()[-1]) for line in of_run}


def test_every_row_comes_back_once_with_the_columns_of_the_public_surface(ray_cluster):
    batch = RayLLMBatch(echo(), CNNDailySummary(dataset_file=ARTICLES))
    rows = batch.run().take_all()
    given = [json.loads(line) for line in Path(ARTICLES).read_text(encoding="utf-8").splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in given)
    assert {row["id"]: row["article"] for row in rows} == {row["id"]: row["article"] for row in given}
    assert set(rows[0]) == {
        "id",
        "article",
        "highlights",
        "generated_text",
        "num_input_tokens",
        "num_generated_tokens",
        "finish_reason",
        "error",
    }
    assert all(row["error"] is None and row["finish_reason"] == "length" for row in rows)
    assert all(row["num_generated_tokens"] == 150 and row["num_input_tokens"] > 150 for row in rows)
    assert all("You are a news editor" in row["generated_text"] for row in rows)
    assert batch.get_avg_engine_time_per_replica() > 0


def test_dataset_fraction_takes_the_first_rows_and_order_is_kept_when_asked_for(ray_cluster):
    batch = RayLLMBatch(echo(), Numbered(dataset_fraction=0.25), batch_size=7, preserve_order=True)
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
        assert rows[i]["generated_text"] is None and rows[i]["finish_reason"] == "error"
    assert rows[13]["num_input_tokens"] > 4096 and str(rows[13]["num_input_tokens"]) in rows[13]["error"]
    good = [r for i, r in rows.items() if i not in expected]
    assert all(r["error"] is None for r in good)
    assert {r["num_generated_tokens"] for r in good if r["id"] != 15} == {8} and rows[15]["num_generated_tokens"] == 3


def test_a_run_after_preview_and_estimate_uses_their_engine_and_survives_its_death(ray_cluster, capsys):
    config = echo(crash_on="number 77 of")
    RayLLMBatch(config, Numbered(dataset_fraction=8.0)).preview(n=2)  # a look at a few rows of the table, then all
    batch = RayLLMBatch(config, Numbered(count=2000))
    shown = capsys.readouterr().out
    assert "[2] " in shown and "<|user|>number 0 of a long list of things to say<|end|><|assistant|>" in shown
    host = warm._kept.hosts[0]
    said = batch.estimate(sample_rows=4)
    assert said.rows == 2000 and said.sample_rows == 4 and not said.failed and warm._kept.hosts == [host]
    assert said.output_tokens_per_row.mean == 8 and said.start_s > 0
    rows = {row["id"]: row for row in batch.run().take_all()}
    assert sorted(rows) == list(range(2000))
    assert [i for i, row in rows.items() if row["error"]] == [77] and "makes the engine crash" in rows[77]["error"]
    assert {replica.actor_id for replica in batch._execution.replicas.values()} == {host._actor_id.hex()}
    assert warm._kept is None


def test_a_class_from_a_notebook_cell_works_and_run_computes_once_outside_the_engine(ray_cluster, tmp_path):
    cell = {"__name__": "__main__", "ChatWorkloadBase": ChatWorkloadBase, "calls": str(tmp_path / "calls"), "os": os}
    exec(
        "class Cell(ChatWorkloadBase):\n"
        "    def load_dataset(self):\n"
        "        import ray.data\n"
        "        return ray.data.from_items([{'q': str(i)} for i in range(100)])\n"
        "    def parse_row(self, row):\n"
        "        with open(calls, 'a') as file:\n"
        "            file.write(f'{os.getpid()}\\n')\n"
        "        return {'messages': [{'role': 'user', 'content': row['q']}]}\n",
        cell,
    )
    batch = RayLLMBatch(engine_cfg=echo(), workload=cell["Cell"]())
    dataset = batch.run()
    assert sorted(int(row["q"]) for row in dataset.take_all()) == list(range(100))
    assert dataset.count() == dataset.to_pandas().shape[0] == 100
    callers = [int(pid) for pid in (tmp_path / "calls").read_text().split()]
    workers = [pid for pid in callers if pid != os.getpid()]  # the driver tries the first rows
    assert len(workers) == 100
    engine_processes = {replica.pid for replica in batch._execution.replicas.values()}
    assert engine_processes and not engine_processes & set(workers)


def test_synthetic_prompts_have_the_lengths_asked_for(ray_cluster):
    workload = SyntheticWithSharedPrefix(20.0, 4, 60, 30, 5)
    rows = RayLLMBatch(echo(), workload).run().take_all()
    assert len(rows) == 20 and {row["num_generated_tokens"] for row in rows} == {5}
    assert all(90 <= row["num_input_tokens"] <= 180 for row in rows)  # 90 words, in the demo's small vocabulary


def test_two_replicas_share_the_rows(ray_cluster):
    batch = RayLLMBatch(echo(seconds_per_request=3), Numbered(), batch_size=5, num_replicas=2)
    assert batch.run().count() == 100
    assert len(batch._execution.replicas) == 2 and all(
        replica.rows > 0 for replica in batch._execution.replicas.values()
    )
    run_id, until = batch._execution.replicas.copy().popitem()[1].log.split("-")[-2], time.monotonic() + 60
    while (
        sum((exported := prometheus_rows(ray_cluster, run_id)).values()) < 100 and time.monotonic() < until
    ):  # Ray sends every 10 s
        time.sleep(0.5)
    assert exported == {str(number): replica.rows for number, replica in enumerate(batch._execution.replicas.values())}


class TokenIds(Numbered):
    sampling_params: dict = {"max_tokens": 3}

    def parse_row(self, row):
        return {"prompt_token_ids": [row["id"] % 50 + 300, 301, 302, 303, 304]}


def test_a_model_without_a_chat_template_answers_token_ids(ray_cluster, tmp_path, capsys):
    shutil.copytree("assets/demo-model", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    config = init_engine_from_config(
        "configs/demo-cpu.yaml", override={"llm_engine": "echo", "model_id": str(tmp_path / "base")}
    )
    batch = RayLLMBatch(config, TokenIds())
    batch.preview(2)
    from transformers import AutoTokenizer

    say = AutoTokenizer.from_pretrained("assets/demo-model").decode
    assert say([300, 301, 302, 303, 304]) in capsys.readouterr().out
    rows = batch.run().take_all()
    assert sorted(row["id"] for row in rows) == list(range(100))
    for row in rows:
        assert (row["num_input_tokens"], row["num_generated_tokens"], row["error"]) == (5, 3, None)
        assert row["generated_text"] == say([row["id"] % 50 + 300, 301, 302])


def test_an_engine_that_does_not_start_says_why(ray_cluster):
    with pytest.raises(EngineError, match="did not start.*no kernel image is available"):
        RayLLMBatch(echo(start_error="no kernel image is available"), Numbered()).run()


def test_an_engine_without_memory_starts_again_with_less_and_nothing_is_lost(ray_cluster, capsys):
    # 256 sequences are too many, 64 will do; and once it runs, 0.92 of the memory is too much and 0.8 not.
    batch = RayLLMBatch(echo(max_num_seqs=None, oom_above=64, run_oom_above=0.8), Numbered(), batch_size=10)
    rows = batch.run().take_all()
    assert sorted(row["id"] for row in rows) == list(range(100))
    assert {row["error"] for row in rows} == {None} and {row["num_generated_tokens"] for row in rows} == {8}
    said = capsys.readouterr().out
    for name, values in (("max_num_seqs", "256 128 64"), ("gpu_memory_utilization", "0.92 0.86 0.8")):
        steps = values.split()
        for before, after in zip(steps, steps[1:], strict=False):
            assert (
                said.count(f"out of memory: the engine is started again with {name}={after} instead of {before}.") == 1
            ), said
    assert "max_num_seqs=64" in said


def test_a_preview_and_an_estimate_survive_a_lack_of_memory_too(ray_cluster, capsys):
    try:
        RayLLMBatch(echo(run_oom_above=0.9), Numbered()).preview(2)
        assert "number 1 of a long list" in capsys.readouterr().out
        RayLLMBatch(echo(run_oom_above=0.8), Numbered()).estimate(8)  # another config: another engine
        assert "gpu_memory_utilization=0.8 instead of 0.86" in capsys.readouterr().out
    finally:
        RayLLMBatch.release()


def test_an_engine_for_which_no_memory_is_enough_says_what_to_change(ray_cluster, capsys):
    pinned = {"max_num_seqs": 128, "max_num_batched_tokens": 8192}
    with pytest.raises(EngineError) as caught:
        RayLLMBatch(echo(**pinned, gpu_memory_utilization=0.6, oom_above=16), Numbered()).run()
    for words in (
        "does not fit the GPU",
        "2.0 GiB on each GPU",
        "Your config sets",
        "max_num_seqs=128",
        "tensor_parallel_size",
        "quantized",
        "max_model_len",
    ):
        assert words in str(caught.value)
    assert "started again" not in capsys.readouterr().out, "what the user has set stays"


def test_a_row_that_crashes_the_engine_costs_itself_and_no_other(ray_cluster):
    batch = RayLLMBatch(echo(crash_on="number 57 "), Numbered(), batch_size=10)
    rows = {row["id"]: row for row in batch.run().take_all()}
    assert (batch.metrics.rows, batch.metrics.failed) == (len(rows), 1), (
        "those of the engines that died are counted once"
    )
    assert sum(batch.metrics.finish_reasons.values()) == len(rows) and batch.metrics.failed_by_kind == {"engine": 1}
    assert sorted(rows) == list(range(100))
    assert {i for i, row in rows.items() if row["error"]} == {57}
    assert "makes the engine crash" in rows[57]["error"] and "the prompt holds 'number 57 '" in rows[57]["error"]
    assert {row["num_generated_tokens"] for i, row in rows.items() if i != 57} == {8}


def test_an_engine_that_dies_whatever_it_is_given_ends_the_run(ray_cluster):
    with pytest.raises(EngineError, match="(?s)died 5 times without answering a row.*the prompt holds 'number'"):
        RayLLMBatch(echo(crash_on="number"), Numbered()).run()


def test_an_engine_that_answers_nothing_is_started_again_and_then_the_run_fails(ray_cluster, capsys):
    with pytest.raises(EngineError, match="finished no row for 4 s .*[0-9]+ rows in it.*Its log: "):
        RayLLMBatch(echo(seconds_per_request=1000), Numbered(), stall_timeout_s=4).run()
    assert "It is started again." in capsys.readouterr().out


def test_a_parse_row_that_hangs_is_not_waited_for_for_ever(ray_cluster):
    class Hangs(Numbered):
        def parse_row(self, row):
            time.sleep(1000 if row["id"] > 20 else 0)
            return super().parse_row(row)

    with pytest.raises(
        EngineError, match="No row reached an engine for 5 s.*parse_row hangs.*The cluster has no GPU, 2 CPUs"
    ):
        RayLLMBatch(echo(), Hangs(), stall_timeout_s=5).run()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"accelerator_type": "H100"}, "accelerator_type is H100, but the cluster has no GPU, 2 CPUs on 1 node"),
        ({"accelerator_type": "A10G", "engine_kwargs": {"tensor_parallel_size": 8}}, "no GPU, 2 CPUs on 1 node"),
    ],
)
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


@pytest.mark.parametrize(
    ("workload", "error", "said"),
    [
        (LacksColumn(), WorkloadError, "parse_row fails on each of the first 8.*'article'.*the row has: text"),
        (ReturnsList(), WorkloadError, "must return a ray.data.Dataset, but returned a list"),
        (NoRows(), DatasetError, "has no rows"),
        (Chained(), DatasetError, "already has the column.*generated_text"),
    ],
)
def test_a_workload_that_cannot_run_is_refused_before_an_engine_starts(ray_cluster, workload, error, said):
    with pytest.raises(error, match=said):
        RayLLMBatch(echo(start_error="must not be reached"), workload).run()


def test_a_bad_line_that_only_the_read_meets_is_named(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_file, "IN_MEMORY_BYTES", 0)  # as a file too large for the driver to read
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"article": "{"one " * 100}"}}\n' * 9000 + "oops\n" + '{"article": "two"}\n' * 9)
    monkeypatch.setattr(file_part, "TASK_BYTES", 1 << 20)
    with pytest.raises(DatasetError, match="Line 9001 of .*rows.jsonl.* is not JSON.*'oops'"):
        RayLLMBatch(echo(), CNNDailySummary(dataset_file=str(path))).run()


def test_bad_lines_that_are_kept_are_failed_rows(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_file, "IN_MEMORY_BYTES", 0)
    (tmp_path / "lang=de").mkdir()
    path = tmp_path / "lang=de" / "rows.csv"
    path.write_bytes(b"id,article\n1,one\n2\n3,caf\xe9\n4,four\n")
    batch = RayLLMBatch(
        echo(), CNNDailySummary(dataset_file=str(tmp_path / "lang=*"), bad_lines="keep"), preserve_order=True
    )
    rows = batch.run(tmp_path / "out", id_column="id").take_all()
    assert sorted((row["id"] or "", row["lang"]) for row in rows) == [("", "de"), ("", "de"), ("1", "de"), ("4", "de")]
    bad = sorted(row["error"] for row in rows if row["error"])
    assert [error.partition("' ")[0] for error in bad] == [f"dataset_file: Line {n} of '{path}" for n in (3, 4)]
    assert set(rows[0]) == {
        "id",
        "article",
        "lang",
        "generated_text",
        "num_input_tokens",
        "num_generated_tokens",
        "finish_reason",
        "error",
    }
    again = batch.run(tmp_path / "out", id_column="id").take_all()
    assert len(again) == 4 and sorted(row["error"] or "" for row in again) == sorted(row["error"] or "" for row in rows)


def test_a_large_file_is_read_as_a_small_one(ray_cluster, tmp_path, monkeypatch):
    lines = [
        {
            "n": n,
            "key": n if n < 2000 else f"k{n}",
            "at": "2024-03-01",
            "id": 2**63 + n,
            **({"late": [{"a": None}]} if n > 3000 else {}),
        }
        for n in range(4000)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    monkeypatch.setattr(dataset_file, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(file_part, "TASK_BYTES", 50_000)
    dataset = dataset_file.read_dataset_file(tmp_path / "rows.jsonl")
    first = dataset_file.first_rows(dataset, 100)
    dataset.context.execution_options.preserve_order = True
    rows = dataset.take_all()
    assert [{key: value for key, value in row.items() if value is not None} for row in rows] == lines
    assert first[:100] == [{**row, "late": None} for row in lines[:100]] and dataset.count() == 4000
    assert dataset.limit(3).take_all()[2]["id"] == 2**63 + 2


def test_a_tokenizer_without_a_chat_template_is_named(ray_cluster, tmp_path):
    shutil.copytree("assets/demo-model", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    config = init_engine_from_config(
        "configs/demo-cpu.yaml", override={"llm_engine": "echo", "model_id": str(tmp_path / "base")}
    )
    with pytest.raises(ConfigError, match="has no chat template.*set chat_template in the config"):
        RayLLMBatch(config, Numbered()).run()


def test_check_lists_all_that_is_wrong_and_says_when_nothing_is(ray_cluster, capsys):
    RayLLMBatch(echo(), Numbered()).check()
    assert "Ready to run: 100 rows, 1 replica(s)" in capsys.readouterr().out
    config = init_engine_from_config("configs/demo-cpu.yaml", override={"accelerator_type": "H100"})
    with pytest.raises(PreflightError, match="(?s)2 things.*1. accelerator_type is H100.*2. .*has no rows") as caught:
        RayLLMBatch(config, NoRows()).check()
    assert [type(problem) for problem in caught.value.problems] == [ClusterError, DatasetError]


@pytest.mark.parametrize(
    "arguments", [{"num_replicas": 0}, {"num_replicas": 1.5}, {"batch_size": 0}, {"batch_size": True}]
)
def test_sizes_are_checked(arguments):
    with pytest.raises(ConfigError, match="whole number of at least 1"):
        RayLLMBatch(echo(), Numbered(), **arguments)


def test_both_spellings_and_positions_of_the_first_arguments():
    engine, workload = echo(), Numbered()
    for batch in (
        RayLLMBatch(engine, workload),
        RayLLMBatch(engine_config=engine, workload=workload),
        RayLLMBatch(engine_cfg=engine, workload=workload),
    ):
        assert batch.engine_config is engine and batch.workload is workload
    with pytest.raises(ConfigError, match="two names"):
        RayLLMBatch(engine_config=engine, engine_cfg=engine, workload=workload)
    assert RayLLMBatch.project_1m_token_time(500_000, 30.0, 10.0) == pytest.approx(40.0)
