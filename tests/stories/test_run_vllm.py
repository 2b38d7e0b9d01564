"""Whole runs through a real Ray and a real vLLM engine on CPU, with the model that ships with the repository."""

import json
import os
import re
import signal

import pyarrow.parquet
import pytest
import vllm_processes
from driver import Driver

from rayllm_batch import CNNDailySummary

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
ARTICLES = "assets/sample_articles.jsonl"
# Of each article so many rows: their answers take long enough for the story of a broken run, also on a fast machine.
DIFFERENT, COPIES = 32, 3
MAX_TOKENS = 80


DRIVER = """
import json

from rayllm_batch import CNNDailySummary, RayLLMBatch, init_engine_from_config

# Two requests at once, and without speculation, which guesses an answer that repeats itself so well that all is done
# before it can be broken.
slow = {{"max_num_seqs": 2, "speculative_config": None}}
config = init_engine_from_config("configs/demo-cpu.yaml", override={{"engine_kwargs": slow}})


class HalfTokenized(CNNDailySummary):  # every second row comes with its token ids
    def parse_row(self, row):
        chat = super().parse_row(row)
        if len(row["article"]) % 2:
            return chat
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained({model!r})
        asked = dict(add_generation_prompt=True, return_dict=False)
        return {{"prompt_token_ids": tokenizer.apply_chat_template(chat["messages"], **asked)}}


rows = HalfTokenized(
    dataset_file={articles!r}, sampling_params={{"max_tokens": {max_tokens}, "temperature": 0.0}}
)
batch = RayLLMBatch(config, rows, batch_size=2, deduplicate=False)
batch.run({folder!r})
print("COMPUTED", batch.metrics.rows, flush=True)
print("SETTINGS", json.dumps(next(iter(batch._execution.replicas.values())).settings), flush=True)
"""


def written(folder):
    """The rows in the part files of a folder that is being written: a file has its name when it is complete."""
    return [
        row for part in sorted(folder.glob("part-*.parquet")) for row in pyarrow.parquet.read_table(part).to_pylist()
    ]


def said_by_transformers(rows):
    """Texts and token counts of the same prompts through transformers, one row and one token after the other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("assets/demo-model")
    model = AutoModelForCausalLM.from_pretrained("assets/demo-model", dtype=torch.float32).eval()
    workload, said = CNNDailySummary(dataset_file=ARTICLES), {}
    for row in rows:
        if row["article"] in said:
            yield said[row["article"]]
            continue
        ids = tokenizer.apply_chat_template(
            workload.parse_row(row)["messages"], add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        out = model.generate(ids, max_new_tokens=MAX_TOKENS, do_sample=False)[0, ids.shape[1] :]
        said[row["article"]] = {
            "generated_text": tokenizer.decode(out, skip_special_tokens=True),
            "num_input_tokens": ids.shape[1],
            "num_generated_tokens": len(out),
            "error": None,
        }
        yield said[row["article"]]


def job(folder):
    """The driver's code, and the ids of its rows."""
    with open(ARTICLES, encoding="utf-8") as lines:
        given = [json.loads(line) for line in lines][:DIFFERENT]
    rows = [{**row, "id": f"{row['id']} {copy}"} for copy in range(COPIES) for row in given]
    articles = folder.with_name("articles.jsonl")
    articles.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code = DRIVER.format(
        model=os.path.abspath("assets/demo-model"), articles=str(articles), max_tokens=MAX_TOKENS, folder=str(folder)
    )
    return code, [row["id"] for row in rows]


def first_rows(driver, folder):
    """The engine's core and all its processes, once it has answered rows and they are written."""
    driver.wait_for("its engine", lambda: "Engine ready" in driver.said, 300)
    processes = driver.wait_for("its engine's processes", driver.engines, 60)
    driver.wait_for("the first rows in its folder", lambda: written(folder), 60)
    return next(process for process in processes if process.parent() not in processes), processes


def rows_of_another_engine(driver, folder):
    """How many rows the first engine has left, and the second one's processes, once that has answered rows."""
    second = driver.wait_for("another engine", driver.engines, 200)
    rows_before = len(written(folder))  # it takes a while to start: what the first one answered is written by now
    driver.wait_for("rows of the other engine", lambda: len(written(folder)) > rows_before, 200)
    return rows_before, {*second, *driver.engines()}  # its worker comes after its core


def completed(code, ids, folder, log):
    """The rows that were there already, and the engine's settings, after a last run; all that can be known is right."""
    with Driver(code, log) as driver:
        driver.wait_for("its engine", lambda: "Engine ready" in driver.said, 300)
        engines = driver.wait_for("its engine's processes", driver.engines, 60)
        assert driver.process.wait(400) == 0
        there = int(
            re.search(rf"^(\d+) rows are in {folder} already: continuing with the rest.$", driver.said, re.MULTILINE)[1]
        )
        assert f"COMPUTED {len(ids) - there}\n" in driver.said, "finished rows are not computed again"
        settings = json.loads(re.search(r"^SETTINGS (.*)$", driver.said, re.MULTILINE)[1])
    assert vllm_processes.left_after(0, engines) == []
    answers = written(folder)
    assert sorted(row["id"] for row in answers) == sorted(ids) and not list(folder.glob("failed-*"))
    for row, said in zip(answers, said_by_transformers(answers), strict=True):
        assert {name: row[name] for name in said} == said
    return there, settings


def test_a_killed_engine_and_an_interrupt_lose_and_double_no_row(tmp_path):
    """One job in two drivers: an engine that dies is started again, Ctrl-C ends it, the same call completes it.

    The answers are the model's, as transformers gives them. One story, because an engine takes a minute to start.
    """
    folder = tmp_path / "answers"
    code, ids = job(folder)
    with Driver(code, tmp_path / "first.log") as driver:
        core, first = first_rows(driver, folder)
        core.kill()
        assert vllm_processes.left_after(60, first) == []
        rows_before, second = rows_of_another_engine(driver, folder)
        driver.process.send_signal(signal.SIGINT)
        assert driver.process.wait(90) != 0
        assert "KeyboardInterrupt" in driver.said
        there = len(written(folder))
        assert f"{there} rows are in {folder}. Run the same again to continue from there." in driver.said
        assert vllm_processes.left_after(15, second) == []
        assert rows_before < there < len(ids)
    already, settings = completed(code, ids, folder, tmp_path / "second.log")
    assert already == there
    # vLLM's CPU defaults: 4,096 batched tokens for LLM(), 2,048 for a server; max_num_seqs is the driver's.
    assert settings["max_num_batched_tokens"] == 4096 and settings["max_num_seqs"] == 2


@pytest.mark.slow
def test_a_killed_actor_and_a_killed_driver_lose_and_double_no_row(tmp_path):
    """As above; nobody is left to end what the killed ones started, and it ends all the same."""
    folder = tmp_path / "answers"
    code, ids = job(folder)
    with Driver(code, tmp_path / "first.log") as driver:
        core, first = first_rows(driver, folder)
        actor = core.parent()
        assert vllm_processes.title(actor).startswith("ray::")
        actor.kill()
        assert vllm_processes.left_after(60, first) == []
        rows_before, second = rows_of_another_engine(driver, folder)
        driver.process.kill()
        driver.process.wait()
        assert vllm_processes.left_after(60, second) == []
        assert rows_before < len(written(folder)) < len(ids)
    already, _ = completed(code, ids, folder, tmp_path / "second.log")
    assert already > rows_before
