"""What a run sends to its workers arrives on nodes that have Ray and vLLM, but not this package."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase, CNNDailySummary, OpenAIBatchFile, init_engine_from_config
from rayllm_batch.config import EnvVars
from rayllm_batch.data.data_files import find_files
from rayllm_batch.data.row_id import RowCounts
from rayllm_batch.media.reader import MediaReader
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.output.finished_rows import Asked
from rayllm_batch.run import pipeline
from rayllm_batch.run.monitor import RunMonitor
from rayllm_batch.run.pipeline import keep_rows
from rayllm_batch.run.survey import look
from rayllm_batch.run.warm import Host, Relay
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import pooled_prompts
from rayllm_batch.workers.media_prompts import MediaPrompts
from rayllm_batch.workers.prompts import PromptJob, build_prompts, prompt_tables
from rayllm_batch.workers.replica import Replica, ReplicaJob
from rayllm_batch.workload.base import media_rules
from rayllm_batch.workload.openai_batch import line_reader


class Mine(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": row["text"]}]}


def job() -> ReplicaJob:
    config = init_engine_from_config("configs/demo-cpu.yaml")
    task = Generate({"temperature": 0.0})
    prompt = PromptJob(parse_row=Mine().parse_row, tokenizer=config.model_id, task=task)
    return ReplicaJob("run", dataclasses.replace(config, env_vars=EnvVars()), prompt, None)


def pooled_job() -> ReplicaJob:
    config = init_engine_from_config("configs/demo-embed-cpu.yaml")
    task = config.task_kind.of(Mine(), config.engine_kwargs).of_model({"hidden_size": 256}, None, config.engine_kwargs)
    prompt = PromptJob(parse_row=Mine().parse_row, tokenizer=config.model_id, task=task, pooled=pooled_prompts.fill)
    return ReplicaJob("run", dataclasses.replace(config, env_vars=EnvVars()), prompt, None)


def media_job() -> ReplicaJob:
    config = init_engine_from_config("configs/demo-cpu.yaml")
    prompt = dataclasses.replace(job().prompt, media=MediaPrompts.of(config, media_rules(Mine())))
    return dataclasses.replace(job(), prompt=prompt)


def requests() -> Any:
    """A batch file's: what reads it, and what its rows are."""
    workload = OpenAIBatchFile("tests/data/heldout_articles.jsonl", served_model_name="m")
    prompt = PromptJob(workload.parse_row, "assets/demo-model", task=Generate().of(workload, {}))
    return prompt, line_reader(find_files(workload.dataset_file or ""))


def pooled_requests() -> Any:
    """A batch file's for embeddings."""
    workload, kwargs = OpenAIBatchFile("tests/data/heldout_articles.jsonl"), {"max_model_len": 8}
    config = init_engine_from_config("configs/demo-embed-cpu.yaml")
    task = config.task_kind.of(workload, kwargs).of_model({"hidden_size": 256}, None, kwargs)
    return PromptJob(workload.parse_row, "assets/demo-model", task=task, pooled=pooled_prompts.fill)


def media() -> Any:
    return MediaReader, MediaRules(max_pixels=12)


MADE = [job, pooled_job, media_job, requests, pooled_requests, media]
SENT = [Replica, Host, Relay, RunMonitor, RowCounts, Asked, look, build_prompts, prompt_tables, keep_rows, *MADE]
# Each is read in a fork that has read no other, after the libraries that all of them import.
READ = """
import os, pickle, sys, traceback
import numpy, pyarrow, ray.cloudpickle
for name in sys.argv[1:]:
    if os.fork() == 0:
        try:
            found = pickle.load(open(name, "rb"))
            if name == "requests":
                body = '{"custom_id": "1", "url": "/v1/completions", "body": {"model": "m", "prompt": "a", "seed": 1}}'
                task, parse_row = found[0].task, found[0].parse_row
                parsed = task.parse(parse_row, {"request": body.encode()})
                assert task.request([1], task.own_text(parsed)).settings == {"seed": 1, "max_tokens": 16}
            if name == "media_job":
                import io, PIL.Image
                PIL.Image.new("RGB", (3, 2)).save(file := io.BytesIO(), "PNG")
                as_sent = type(found.prompt.media)(found.prompt.media.rules, as_text=True)
                [(_, media)] = as_sent.read([(0, [("image", file.getvalue())])], found.prompt)
                assert media[0]["kind"] == "image", media
            if name == "media":
                image = found[0](found[1]).read("image", numpy.zeros((3, 4, 3), "uint8"))
                assert (image.width, image.height) == (4, 3)
            if name == "pooled_requests":
                body = '{"custom_id": "1", "url": "/v1/embeddings", "body": {"model": "m", "input": [[1], [2, 3]]}}'
                parsed = found.task.parse(found.parse_row, {"request": body.encode()})
                assert found.task.request([1, 2, 3], found.task.own_text(parsed)).pooling.lengths == (1, 2)
            assert "rayllm_batch" not in sys.modules
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
            os._exit(1)
        os._exit(0)
    if os.wait()[1]:
        print(name, "was not read", flush=True)
    else:
        print(name, flush=True)
"""


def test_it_is_understood_without_the_package(tmp_path: Path) -> None:
    from ray import cloudpickle

    pipeline.ship_by_value(Mine())
    for sent in SENT:
        (tmp_path / sent.__name__).write_bytes(cloudpickle.dumps(sent() if sent in MADE else sent))
    names = [sent.__name__ for sent in SENT]
    there = subprocess.run(
        [sys.executable, "-c", READ, *names],
        cwd=tmp_path,
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert there.stdout.splitlines() == names, there.stdout + there.stderr


@pytest.mark.parametrize("workload", [Mine(), CNNDailySummary(), OpenAIBatchFile("x")])
def test_a_job_is_small(workload: Any) -> None:
    """Each worker reads it, in 10 ms. Of it 350 KB are the code of its engine and task, and 120 KB what reads media;
    the readers of files would add half of that.
    """
    from ray import cloudpickle

    pipeline.ship_by_value(workload)
    sent = dataclasses.replace(
        job(),
        prompt=PromptJob(
            parse_row=workload.parse_row,
            tokenizer="assets/demo-model",
            task=Generate().of(workload, {}),
            media=media_job().prompt.media,
        ),
    )
    assert len(cloudpickle.dumps(sent)) < 600_000
