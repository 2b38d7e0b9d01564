"""Whole runs through a real Ray and a real vLLM engine on CPU, with the model that ships with the repository."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rayllm_batch import CNNDailySummary, RayLLMBatch, init_engine_from_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
ARTICLES = "assets/sample_articles.jsonl"


def all_engine_processes():
    """vLLM gives its processes titles of their own."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith("VLLM::")}


NOT_OURS = all_engine_processes()  # of whatever else runs on this machine


def engine_processes():
    return sorted(all_engine_processes() - NOT_OURS)


def workload(**changes):
    return CNNDailySummary(**{
        "dataset_file": ARTICLES, "dataset_fraction": 8, "sampling_params": {"max_tokens": 40, "temperature": 0.0}, **changes,
    })


@pytest.fixture(scope="module")
def finished(ray_cluster):
    """One run, looked at by several tests: an engine takes about a minute to start."""
    config = init_engine_from_config("configs/demo-cpu.yaml", override={"engine_kwargs": {"max_num_seqs": 8}})
    batch = RayLLMBatch(config, workload())
    rows = batch.run().take_all()
    return batch, rows, engine_processes()


def test_answers_are_what_the_model_says_greedily(finished):
    """The same prompt through transformers, one token after the other, gives the same text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, rows, _ = finished
    assert len(rows) == 8 and all(row["error"] is None for row in rows)
    tokenizer = AutoTokenizer.from_pretrained("assets/demo-model")
    model = AutoModelForCausalLM.from_pretrained("assets/demo-model", dtype=torch.float32).eval()
    for row in rows[:3]:
        ids = tokenizer.apply_chat_template(
            workload().parse_row(row)["messages"], add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        assert ids.shape[1] == row["num_input_tokens"]
        out = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1]:]
        assert tokenizer.decode(out, skip_special_tokens=True) == row["generated_text"]
        assert len(out) == row["num_generated_tokens"]


def test_the_scheduler_has_the_limits_of_vllms_own_llm(finished):
    batch, _, _ = finished
    settings = next(iter(batch._replicas.values()))["settings"]
    # vLLM's CPU defaults: 4,096 batched tokens for LLM(), 2,048 for a server; max_num_seqs is the config's.
    assert settings["max_num_batched_tokens"] == 4096 and settings["max_num_seqs"] == 8


def test_no_engine_process_is_left_and_a_second_run_with_another_config_works(finished, ray_cluster):
    _, rows, left = finished
    assert left == []
    config = init_engine_from_config(
        "configs/demo-cpu.yaml", override={"engine_kwargs": {"max_num_seqs": 4, "max_model_len": 900}}
    )
    again = {row["id"]: row for row in RayLLMBatch(config, workload()).run().take_all()}
    assert engine_processes() == []
    assert sorted(again) == sorted(row["id"] for row in rows)
    for row in rows:
        if row["num_input_tokens"] < 900 - 40:
            assert again[row["id"]]["generated_text"] == row["generated_text"]
        elif row["num_input_tokens"] >= 900:
            error = again[row["id"]]["error"]
            assert str(row["num_input_tokens"]) in error and "max_model_len is 900" in error


DRIVER = """
import sys
sys.path.insert(0, {root!r})
from rayllm_batch import CNNDailySummary, RayLLMBatch, init_engine_from_config

config = init_engine_from_config("configs/demo-cpu.yaml", override={{"engine_kwargs": {{"max_num_seqs": 2}}}})
rows = CNNDailySummary(
    dataset_file="assets/sample_articles.jsonl", dataset_fraction={rows},
    sampling_params={{"max_tokens": 400, "temperature": 0.0, "ignore_eos": True}},
)
dataset = RayLLMBatch(config, rows, batch_size=2).run()
print("DONE", dataset.count(), sum(row["error"] is not None for row in dataset.take_all()), flush=True)
"""


@pytest.fixture
def driver(request):
    """A driver of its own, stopped when its engine is generating; yields the process and its engine's processes."""
    import ray

    ray.shutdown()  # one Ray at a time on a small machine
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(root=os.getcwd(), rows=request.param)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    said = ""
    for line in process.stdout:
        said += line
        if "Engine ready" in line:
            break
    else:
        pytest.fail(f"the driver ended before its engine was ready:\n{said}")
    time.sleep(3)
    yield process, engine_processes()
    if process.poll() is None:
        process.kill()


@pytest.mark.parametrize("driver", [40], indirect=True)
def test_an_interrupt_while_generating_leaves_no_engine_process(driver):
    process, engines = driver
    assert engines
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode not in (0, None) and "KeyboardInterrupt" in said
    deadline = time.time() + 15
    while engine_processes() and time.time() < deadline:
        time.sleep(0.5)
    assert engine_processes() == []


@pytest.mark.parametrize("driver", [12], indirect=True)
def test_a_killed_engine_is_started_again_and_no_row_is_lost(driver):
    process, engines = driver
    assert engines
    os.kill(engines[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=500)
    assert "DONE 12 0" in said, said
    assert engine_processes() == []
