"""Vectors, labels and scores of real vLLM engines on CPU beside those of vLLM's own offline interface. Without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

sys.path[:0] = ["scripts/demo_classifier", "scripts/demo_embedder"]
pytestmark = pytest.mark.vllm
QUERY, DOCUMENTS = "what is the town?", ["the council of the town.", "rain and storm in the garden", "train"]
# Each engine in a process of its own: this one's is told of its environment before vLLM is there.
OURS = "table = p.in_vllm(p.config_of(**job['config']), job['rows'], **job['fields'])"
OURS += "; found = table.drop_columns(['asked']).to_pylist()"
THEIRS = """
from vllm import LLM
config = p.config_of(**job["config"])
llm = LLM(model=config.model_id, **config.engine_kwargs, **p.task_of(config).engine_settings(config.engine_kwargs))
if config.task == "embed":
    found = [one.outputs.embedding for one in llm.embed([row["prompt"] for row in job["rows"]], use_tqdm=False)]
else:
    ask = lambda row: llm.score(row["query"], row["documents"], use_tqdm=False)
    found = [[one.outputs.score for one in ask(row)] for row in job["rows"]]
"""


def begun(program: str, config: dict[str, Any], rows: list[dict[str, Any]], **fields: Any) -> subprocess.Popen[str]:
    job = {"config": config, "rows": rows, "fields": fields}
    body = f"import sys, json, pooled_rows as p\njob = json.loads(sys.argv[1])\n{program}\nprint('FOUND', json.dumps(found))"
    code = (
        "def main():\n"
        + "\n".join(f"    {line}" for line in body.splitlines())
        + "\nif __name__ == '__main__':\n    main()\n"
    )
    path = os.pathsep.join([".", "tests/support"])
    env = {**os.environ, "PYTHONPATH": path, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def found_by(engine: subprocess.Popen[str]) -> Any:
    with engine:
        try:
            said, why = engine.communicate(timeout=300)
        finally:
            engine.kill()
    assert engine.returncode == 0, why[-3000:]
    return json.loads(said.split("FOUND ")[1].splitlines()[0])


def test_the_demo_embedder_finds_passages_and_its_vectors_are_those_of_llm_embed() -> None:
    from passages import UNSEEN, articles, passages, sentences

    texts = passages(articles(UNSEEN))
    asked, places = sentences(texts)
    config = {"model": "assets/demo-embedder", "task": "embed"}
    rows = [{"prompt": text} for text in [*texts, *asked]]
    own = {"prompt": texts[0], "pooling_params": {"use_activation": False}}
    one, other = begun(OURS, config, [*rows, own, {"prompt": "too long " * 300}]), begun(THEIRS, config, rows)
    *ours, raw, long = found_by(one)
    theirs = np.array(found_by(other))
    vectors = np.array([row["embedding"] for row in ours])
    assert np.abs(vectors - theirs).max() < 1e-3 and vectors.shape == (len(rows), 256)
    nearness = vectors[len(texts) :] @ vectors[: len(texts)].T
    right = int((nearness.argmax(axis=1) == places).sum())
    assert len(asked) > 200 and right >= 0.9 * len(asked), f"{right} of {len(asked)}"
    length = np.linalg.norm(raw["embedding"])
    assert abs(length - 1) > 0.1 and np.allclose(np.array(raw["embedding"]) / length, theirs[0], atol=1e-3)
    assert long["embedding"] is None and "max_model_len is 512; shorten it" in long["error"]


def test_a_cross_encoders_scores_are_those_of_llm_score(tmp_path: Path) -> None:
    model = tiny_models.bert(tmp_path / "cross", "BertForSequenceClassification", seed=1, num_labels=1)
    rows = [{"query": QUERY, "documents": DOCUMENTS}, {"query": "why", "documents": DOCUMENTS[:1]}]
    config = {"model": model, "task": "score"}
    engines = begun(OURS, config, rows), begun(THEIRS, config, rows)
    ours = [row["scores"] for row in found_by(engines[0])]
    theirs = found_by(engines[1])
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert max(ours[0]) - min(ours[0]) > 0.1, "or else nothing is compared"


def test_the_demo_classifier_knows_what_articles_are_about() -> None:
    from topics import PLAIN

    rows, labels = [], []
    for file, topics in PLAIN.items():
        articles = [json.loads(line)["article"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
        for label, numbers in topics.items():
            rows += [{"prompt": articles[number]} for number in numbers]
            labels += [label] * len(numbers)
    config = {"model": "assets/demo-classifier", "task": "classify"}
    found = found_by(begun(OURS, config, rows, pooling_params={"truncate_prompt_tokens": 512}))
    right = sum(row["label"] == label for row, label in zip(found, labels, strict=True))
    assert len(rows) > 30 and right >= 0.9 * len(rows), f"{right} of {len(rows)}"
    assert all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-4) for row in found)
