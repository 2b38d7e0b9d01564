"""Typed answers and rollouts through a real Ray and a real vLLM on CPU: real grammars, real validation, a folder that goes on."""

from __future__ import annotations

import enum
import json
from typing import Optional

import pytest
import vllm_processes
from driver import Driver
from pydantic import BaseModel, Field, field_validator

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import WorkloadError

pytestmark = [pytest.mark.ray, pytest.mark.vllm]


class Tone(str, enum.Enum):
    good, bad = "good", "bad"


class Person(BaseModel):
    name: str = Field(max_length=8)
    age: Optional[int] = Field(None, ge=0, le=120)


class Card(BaseModel):
    title: str = Field(max_length=16)
    tone: Tone
    people: list[Person] = Field(max_length=2)
    note: Optional[str] = Field(None, max_length=10)

    @field_validator("title")
    @classmethod
    def _no_vowel(cls, value: str) -> str:
        """Some answers of the demo model pass and some do not."""
        if value.strip()[:1].lower() in "aeiou":
            raise ValueError("a title begins with a consonant")
        return value


class Cards(ChatWorkloadBase):
    dataset_file = "assets/sample_articles.jsonl"
    output_schema = Card
    reask = 1
    sampling_params = {"max_tokens": 64, "temperature": 1.0, "seed": 3}  # noqa: RUF012

    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": f"Fill in: {row['article'][:300]}"}]}


def as_json(text):
    return json.loads(text, strict=False)  # xgrammar lets a tab in a string pass, which is no JSON to others


def config():
    """Few requests at once, so that not all are done when the first are written; and without speculation, which guesses
    next to nothing of what is drawn at random.
    """
    slow = {"engine_kwargs": {"max_num_seqs": 8, "speculative_config": None}}
    return init_engine_from_config("configs/demo-cpu.yaml", override=slow)


class FourCards(Cards):
    dataset_fraction = 24
    sampling_params = {"max_tokens": 70, "temperature": 1.0, "seed": 3, "n": 4}  # noqa: RUF012


class Drafts(ChatWorkloadBase):
    """Three turns a row."""

    dataset_file = "assets/sample_articles.jsonl"
    dataset_fraction = 32
    sampling_params = {"max_tokens": 12, "temperature": 0.0}  # noqa: RUF012

    async def rollout(self, row, generate):
        ask = [{"role": "user", "content": f"Summarise: {row['article'][:300]}"}]
        drafts = await generate(ask, n=3, temperature=0.9, logprobs=1)
        chosen = await generate([*ask, {"role": "assistant", "content": drafts.text}], output_schema=["yes", "no"])
        card = await generate(ask, output_schema=Person, max_tokens=40)
        lengths = [len(tokens) for tokens in drafts.logprobs]
        return {"drafts": drafts.texts, "verdict": chosen.parsed, "person": json.dumps(card.parsed), "lengths": lengths}


DRIVER = """
import sys

sys.path[:0] = ["tests/stories", "tests/support"]
import test_typed_answers
from rayllm_batch import RayLLMBatch

for workload, output_format in {jobs!r}:
    batch = RayLLMBatch(test_typed_answers.config(), getattr(test_typed_answers, workload)(), batch_size=2)
    batch.run(f"{folder}/{{workload}}", output_format=output_format, id_column="id")
    print("COMPUTED", workload, batch.metrics.rows, flush=True)
"""


def read(folder):
    """Complete files alone: a file has its name when it is whole."""
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(file) for file in folder.glob("*-*.parquet")]
    assert len({table.schema for table in tables}) <= 1, "one type, whatever is in a part"
    lines = [json.loads(line) for file in folder.glob("*-*.jsonl") for line in file.read_text().splitlines()]
    return [row for table in tables for row in table.to_pylist()] + lines


def valid(text):
    try:
        return Card.model_validate(as_json(text)).model_dump(mode="json")
    except ValueError:
        return None


def check_card(row, answers=1):
    texts = [row["generated_text"]] if answers == 1 else row["generated_texts"]
    parsed = [row["parsed"]] if answers == 1 else row["parsed"]
    assert len(texts) == answers and all(texts)
    if row["error"] is None:
        assert parsed == list(map(valid, texts)) and any(parsed), "each answer for itself"
        assert row["num_requests"] in (1, 2)
    else:
        assert not any(parsed or []) and not any(map(valid, texts)) and row["num_requests"] == 2
        assert row["error"].startswith("answer: ") and ("'title'" in row["error"] or "max_tokens" in row["error"])


def check_four(row):
    check_card(row, answers=4)


def check_drafts(row):
    assert row["error"] is None and len(row["drafts"]) == 3 and row["verdict"] in ("yes", "no")
    person = json.loads(row["person"])
    assert person is None or Person.model_validate(person)
    assert row["num_requests"] == 3 and all(0 < length <= 12 for length in row["lengths"])


# Of a job its workload and its format, its rows, what each must be, and how many come out valid at least: the demo
# model fills forms with noise, of which the validator refuses some.
CARDS = ("Cards", "parquet"), 64, check_card, 8
DRAFTS = ("Drafts", "jsonl"), 32, check_drafts, 32
FOUR_CARDS = ("FourCards", "parquet"), 24, check_four, 12


@pytest.mark.parametrize("jobs", [[CARDS, DRAFTS], pytest.param([FOUR_CARDS], marks=pytest.mark.slow)])
def test_a_killed_driver_loses_and_doubles_no_row(jobs, tmp_path):
    """SIGKILL in the middle, the same command again: each row is there once, typed and valid, or says which field is not.

    The driver that completes one job goes on to the next, in the middle of which it is killed.
    """
    there = 0
    for number in range(len(jobs) + 1):
        now = [job for job, *_ in jobs[max(0, number - 1) : number + 1]]
        with Driver(DRIVER.format(jobs=now, folder=tmp_path), tmp_path / f"{number}.log") as driver:
            if number < len(jobs):
                folder = tmp_path / now[-1][0]
                driver.wait_for("the first rows in its folder", lambda of=folder: of.exists() and read(of), 300)
                engines = driver.engines()
                driver.process.kill()
                driver.process.wait()
                assert engines and vllm_processes.left_after(60, engines) == []
            else:
                assert driver.process.wait(200) == 0
            said = driver.said
        if number:
            (workload, _), rows, check, least = jobs[number - 1]
            folder = tmp_path / workload
            assert f"{there} rows are in {folder} already" in said and f"COMPUTED {workload} {rows - there}\n" in said
            answers = read(folder)
            assert len(answers) == len({row["id"] for row in answers}) == rows
            for row in answers:
                check(row)
            assert sum(row["error"] is None for row in answers) >= least
        if number < len(jobs):
            there = len(read(tmp_path / jobs[number][0][0]))
            assert 0 < there < jobs[number][1]


def test_a_form_that_vllm_cannot_hold_is_said_before_an_engine(ray_cluster):
    class Impossible(Cards):
        output_schema = {  # noqa: RUF012
            "type": "object",
            "properties": {
                "a": {"type": "object", "patternProperties": {"^x": {"type": "string"}}, "propertyNames": {}}
            },
        }

    with pytest.raises(WorkloadError, match="No answer can be held to this form"):
        RayLLMBatch(config(), Impossible(dataset_fraction=4), num_replicas=1).check()
