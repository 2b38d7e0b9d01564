"""Typed answers and rollouts through a real Ray and a real vLLM on CPU: real grammars, real validation, a folder that goes on."""

from __future__ import annotations

import enum
import json
from typing import Optional

import pytest
from pydantic import BaseModel, Field, field_validator

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import WorkloadError

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.usefixtures("ray_cluster")]


class Tone(str, enum.Enum):
    good, bad = "good", "bad"


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: Optional[int] = Field(None, ge=0, le=120)


class Card(BaseModel):
    title: str = Field(max_length=24)
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
    sampling_params = {"max_tokens": 110, "temperature": 1.0, "seed": 3}  # noqa: RUF012

    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": f"Fill in: {row['article'][:300]}"}]}


def config():
    return init_engine_from_config("configs/demo-cpu.yaml")


def test_rows_come_out_typed_and_valid_or_with_an_error_that_names_the_field(tmp_path, capsys):
    import pandas as pd
    import pyarrow.dataset

    folder = tmp_path / "cards"
    RayLLMBatch(config(), Cards(dataset_fraction=12), num_replicas=1).run(output_path=folder)
    assert "12 rows" in capsys.readouterr().out
    RayLLMBatch(config(), Cards(dataset_fraction=24), num_replicas=1).run(output_path=folder)
    assert "24 rows" in capsys.readouterr().out
    files = [str(file) for file in folder.glob("*.parquet")]
    table = pyarrow.dataset.dataset(files).to_table()
    person = "struct<name: string, age: int64>"
    assert str(table.schema.field("parsed").type).startswith(
        "struct<title: string, tone: string, people: list<"
    ) and person in str(table.schema.field("parsed").type)
    rows = table.to_pylist()
    assert len({row["id"] for row in rows}) == 24
    for row in rows:
        if row["error"] is None:
            assert Card.model_validate(row["parsed"]).model_dump(mode="json") == row["parsed"]
            assert Card.model_validate_json(row["generated_text"])
        else:
            assert row["error"].startswith("answer: ") and row["generated_text"] and row["num_requests"] == 2
            assert "'title'" in row["error"] or "max_tokens" in row["error"]
    good = [row for row in rows if row["error"] is None]
    assert len(good) > 12
    assert pd.read_parquet(next(file for file in files if "part-" in file))["parsed"].iloc[0]["tone"] in ("good", "bad")


class Drafts(ChatWorkloadBase):
    dataset_file = "assets/sample_articles.jsonl"
    dataset_fraction = 8
    sampling_params = {"max_tokens": 24, "temperature": 0.0}  # noqa: RUF012

    async def rollout(self, row, generate):
        ask = [{"role": "user", "content": f"Summarise: {row['article'][:300]}"}]
        drafts = await generate(ask, n=3, temperature=0.9, logprobs=1)
        chosen = await generate([*ask, {"role": "assistant", "content": drafts.text}], output_schema=["yes", "no"])
        card = await generate(ask, output_schema=Person, max_tokens=60)
        lengths = [len(tokens) for tokens in drafts.logprobs]
        return {"drafts": drafts.texts, "verdict": chosen.parsed, "person": json.dumps(card.parsed), "lengths": lengths}


def test_three_turns_in_one_engine():
    rows = RayLLMBatch(config(), Drafts(), num_replicas=1).run().take_all()
    assert len(rows) == 8
    for row in rows:
        assert row["error"] is None and len(row["drafts"]) == 3 and row["verdict"] in ("yes", "no")
        person = json.loads(row["person"])
        assert person is None or Person.model_validate(person)
        assert row["num_requests"] == 3 and all(0 < length <= 24 for length in row["lengths"])


def test_a_form_that_vllm_cannot_hold_is_said_before_an_engine():
    class Impossible(Cards):
        output_schema = {  # noqa: RUF012
            "type": "object",
            "properties": {
                "a": {"type": "object", "patternProperties": {"^x": {"type": "string"}}, "propertyNames": {}}
            },
        }

    with pytest.raises(WorkloadError, match="No answer can be held to this form"):
        RayLLMBatch(config(), Impossible(dataset_fraction=4), num_replicas=1).check()
