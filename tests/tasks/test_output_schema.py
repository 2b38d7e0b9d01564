"""`output_schema`: what is taken, which column it becomes, and what is said of an answer that has not the form."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import pickle
import re
from decimal import Decimal
from typing import Any, Literal, Optional, Union

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator, model_validator

from rayllm_batch.errors import WorkloadError
from rayllm_batch.tasks.base import InvalidAnswer
from rayllm_batch.tasks.output_schema import OutputSchema


class Urgency(str, enum.Enum):
    LOW, HIGH = "low", "high"


class Part(BaseModel):
    name: str
    price: float = Field(ge=0)


class Ticket(BaseModel):
    """As a person would write it: nested lists, an enum, optional fields, a validator."""

    number: int
    urgency: Urgency
    due: Optional[datetime.date] = None
    parts: list[Part] = []
    labels: dict[str, int] = {}
    either: int | str = 0
    total: decimal.Decimal = decimal.Decimal(0)
    of: Optional[Ticket] = None

    @field_validator("number")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value == 13:
            1 / 0  # noqa: B018
        if value < 0:
            raise ValueError("tickets are counted from 0")
        return value

    @model_validator(mode="after")
    def _urgent_ones_are_due(self) -> Ticket:
        if self.urgency is Urgency.HIGH and self.due is None:
            raise ValueError("an urgent ticket needs a date")
        return self


GOOD = (
    '{"number": 7, "urgency": "low", "parts": [{"name": "wheel", "price": 2}], "of": {"number": 1, "urgency": "low"}}'
)


def test_a_model_becomes_a_struct() -> None:
    schema = OutputSchema(Ticket)
    part = pa.struct([("name", pa.string()), ("price", pa.float64())])
    assert schema.form.type == pa.struct(
        [
            ("number", pa.int64()),
            ("urgency", pa.string()),
            ("due", pa.string()),
            ("parts", pa.list_(part)),
            ("labels", pa.string()),
            ("either", pa.string()),
            ("total", pa.string()),
            ("of", pa.string()),
        ]
    )
    value = schema.parse(GOOD)
    assert value["parts"] == [{"name": "wheel", "price": 2.0}] and value["due"] is None and value["labels"] == "{}"
    assert pa.array([value, None], type=schema.form.type).to_pylist()[0] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD[:40], "no JSON"),
        ("", "no JSON"),
        ("I am sorry", "no JSON"),
        (GOOD.replace("7", '"seven"'), "'number'"),
        (GOOD.replace('"low", "parts"', '"lower", "parts"'), "'urgency'"),
        (GOOD.replace('"price": 2', '"price": -2'), "'parts[0].price'"),
        (GOOD.replace("7", "-7"), "counted from 0"),
        (GOOD.replace("7", "13"), "ZeroDivisionError"),
        (GOOD.replace('"low", "parts"', '"high", "parts"'), "an urgent ticket needs a date"),
        (GOOD.replace("7", "9223372036854775808"), "int64"),
        (GOOD.replace("wheel", "\\ud83d"), "JSON"),
        (GOOD.replace("7", "NaN"), "NaN"),
        ("[" * 50_000, "no JSON"),
        ("null", "object"),
    ],
)
def test_what_is_no_ticket(text: str, said: str) -> None:
    with pytest.raises(InvalidAnswer) as error:
        OutputSchema(Ticket).parse(text)
    assert said in str(error.value) and len(str(error.value)) < 500


class Camera(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    mega_pixels: int = Field(alias="megaPixels")

    @computed_field
    def pixels(self) -> int:
        return self.mega_pixels * 10**6


@dataclasses.dataclass
class Point:
    x: float
    y: float


class Missing(BaseModel):
    score: float = math.inf


def raising(problem: BaseException) -> Any:
    """A type whose validator raises it."""

    class Raises(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def _raise(cls, value: int) -> int:
            raise problem

    return Raises


@pytest.mark.parametrize(
    ("given", "text", "kind", "value"),
    [
        (Urgency, '"low"', pa.string(), "low"),
        (Literal["yes", "no"], '"no"', pa.string(), "no"),
        (Literal[1, 2], "2", pa.int64(), 2),
        (list[Part], '[{"name": "a", "price": 1}]', None, [{"name": "a", "price": 1.0}]),
        (Point, '{"x": 1, "y": 2.5}', pa.struct([("x", pa.float64()), ("y", pa.float64())]), {"x": 1.0, "y": 2.5}),
        (Camera, '{"megaPixels": 3}', None, {"megaPixels": 3, "pixels": 3_000_000}),
        (["yes", "no", "yes, but"], " yes, but\n", pa.string(), "yes, but"),
        ({}, '{"any": ["thing"]}', pa.string(), '{"any": ["thing"]}'),
        ({"type": "object"}, '{"a": 1}', pa.string(), '{"a": 1}'),
        ({"type": ["integer", "null"]}, "3.0", pa.int64(), 3),
        ({"type": "number"}, "3", pa.float64(), 3.0),
        ({"enum": ["a", None]}, "null", pa.string(), None),
        ({"const": True}, "true", pa.bool_(), True),
        ({"enum": ["a", None]}, '"a"', pa.string(), "a"),
        (Missing, "{}", pa.struct([("score", pa.float64())]), {"score": math.inf}),
        (
            {"properties": {"a": {}}, "type": "object", "additionalProperties": {}},
            '{"a": 1, "b": 2}',
            pa.string(),
            '{"a": 1, "b": 2}',
        ),
        (
            {"$ref": "#/$defs/One", "properties": {"b": {"type": "integer"}}, "$defs": {"One": {"type": "object"}}},
            '{"b": 2}',
            pa.string(),
            '{"b": 2}',
        ),
        ({"$ref": "#/$defs/A%20name~1of", "$defs": {"A name/of": {"type": "integer"}}}, "2", pa.int64(), 2),
        ({"type": "array", "items": {"type": ["string", "integer"]}}, '["a", 1]', pa.list_(pa.string()), ['"a"', "1"]),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, '["é"]', pa.string(), '["é"]'),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}},
            "{}",
            pa.struct([("a", pa.int64())]),
            {"a": None},
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
            '{"a": "b", "c": "d"}',
            pa.string(),
            '{"a": "b", "c": "d"}',
        ),
    ],
)
def test_every_form_has_a_column(given: Any, text: str, kind: Optional[pa.DataType], value: Any, tmp_path: Any) -> None:
    schema = pickle.loads(pickle.dumps(OutputSchema(given)))
    assert schema.parse(text) == value
    assert kind is None or schema.form.type == kind
    table = pa.table({"parsed": pa.array([value, None], type=schema.form.type)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == table.to_pylist()


@pytest.mark.parametrize(
    ("given", "text", "said"),
    [
        (["yes", "no"], "yes and no", "none of 'yes', 'no'"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, '{"a": "x", "b": 1}', "'b'"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, "{}", "'a'"),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2.5]", "[1]"),
        ({"type": "integer"}, "true", "integer"),
        ({"type": "string"}, '"\\ud800"', "surrogate"),
        ({}, '["\\udfff"]', "surrogate"),
        ({"type": "number"}, "1e999", "float64"),
        ({}, "[1e999]", "float64"),
        (Part, '{"name": "a", "price": -1e999}', "float64"),
        (list[Any], "[1e400]", "float64"),
        (dict[str, float], '{"a": "NaN"}', "JSON does not have"),
        (raising(SystemExit(3)), '{"number": 1}', "SystemExit"),
        (raising(KeyboardInterrupt()), '{"number": 1}', "KeyboardInterrupt"),
        (raising(GeneratorExit()), '{"number": 1}', "GeneratorExit"),
        ({"type": "array", "items": {"$ref": "#"}}, "[" * 900 + "]" * 900, "too many levels"),
        (Ticket, '{"of":' * 900 + "{}" + "}" * 900, "levels|recursion"),
        ({"type": "number"}, "1" + "0" * 400, "float64"),
        ({"type": "string", "maxLength": 3}, f'"{"x" * 9000}"', "too long"),
        ({"type": "array", "uniqueItems": True}, "[1, 1]", "non-unique"),
    ],
)
def test_what_has_not_the_form(given: Any, text: str, said: str) -> None:
    with pytest.raises(InvalidAnswer) as error:
        OutputSchema(given).parse(text)
    assert re.search(said, str(error.value)) and len(str(error.value)) < 300


class NoSchema:
    pass


DEEP: dict[str, Any] = {}
DEEP["properties"] = {"a": DEEP}


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["a", "a"],
        ["a", 1],
        ["a", ""],
        ["a", "a "],
        ["a", "\ud800"],
        {"properties": {"\udfff": {}}},
        {"$schema": 7, "type": "string"},
        {"properties": {"a": {"$id": "https://example.com/a", "$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
        {"properties": {"a": {"$dynamicRef": "#b"}}, "$defs": {"b": {"$dynamicAnchor": "b"}}},
        {"$ref": "#anchor", "$defs": {"One": {"$anchor": "anchor"}}},
        {"name": "as OpenAI wraps it", "schema": {"type": "string"}},
        {"colour": "string"},
        len,
        lambda row: row,
        Ticket.model_validate,
        {"type": "strin"},
        {"type": "object", "properties": {"a": 3}},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/$defs/Missing"},
        {"type": "string", "default": float("nan")},
        {"type": "string", "default": datetime.date(2024, 1, 1)},
        {1: object()},
        DEEP,
        3,
        NoSchema,
        NoSchema(),
        Part(name="an instance", price=1),
    ],
)
def test_what_is_no_schema_is_said(given: Any) -> None:
    with pytest.raises(WorkloadError) as error:
        OutputSchema(given, "Tickets.output_schema")
    assert "Tickets.output_schema" in str(error.value) and len(str(error.value)) < 700


def test_a_default_that_is_none_in_json_is_not_asked_for() -> None:
    """It would be another schema each time, NaN being unequal to itself, and none for vLLM."""
    field = OutputSchema(Missing).constraint["json"]["properties"]["score"]
    assert field == {"default": None, "title": "Score", "type": "number"}


def test_what_a_schema_asks_of_vllm() -> None:
    assert OutputSchema(("a", "b")).constraint == {"choice": ["a", "b"]}
    assert OutputSchema(Part).constraint["json"]["required"] == ["name", "price"]


class Priced(BaseModel):
    price: Decimal
    share: float = 0.0
    either: Union[float, str] = ""


@pytest.mark.parametrize(
    ("digits", "is_same"),
    [("0.1234567890123456789", False), ("12345678901234567.89", False), ("3.10", True), ("1e-400", False), ("7", True)],
)
def test_a_number_keeps_its_digits_where_there_is_room_for_them(digits: str, is_same: bool) -> None:
    parsed = OutputSchema(Priced).parse(f'{{"price": {digits}, "share": {digits}}}')
    assert Decimal(parsed["price"]) == Decimal(digits) and parsed["share"] == float(digits)
    assert (Decimal(repr(float(digits))) == Decimal(digits)) is is_same, "else this tries nothing"
    free = f'{{"a": [{digits}, "{digits}", {{"b": {digits}}}]}}'
    kept = OutputSchema({}).parse(free)
    assert kept == free or is_same and json.loads(kept) == json.loads(free)
    value = OutputSchema({"type": "object", "properties": {"x": {"type": "number"}}}).value(f'{{"x": {digits}}}')
    assert type(value["x"]) in (int, float) and value["x"] == float(digits), "plain values"


@pytest.mark.parametrize(
    ("digits", "whole"),
    [("9007199254740993.0", 9007199254740993), ("1e3", 1000), ("0.90071992547409930e16", 9007199254740993)],
)
def test_whole_numbers_are_exact_however_they_are_written(digits: str, whole: int) -> None:
    schema = OutputSchema({"type": "object", "properties": {"i": {"type": "integer"}}})
    assert schema.parse(f'{{"i": {digits}}}') == {"i": whole}
    with pytest.raises(InvalidAnswer, match="field 'i'"):
        schema.parse('{"i": 9007199254740992.5}')


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"x": [{"a": 1, "b": 2, "a": 1}]}', '{"a": {"a": 1}, "a": 0}'])
@pytest.mark.parametrize("given", [{}, dict[str, Any]])
def test_a_key_that_comes_twice_is_an_error(text: str, given: Any) -> None:
    with pytest.raises(InvalidAnswer, match="no JSON.*one of its objects has the key 'a' twice"):
        OutputSchema(given).parse(text)
    assert OutputSchema(given).parse('{"a": {"a": 1}}') in ('{"a": {"a": 1}}', '{"a":{"a":1}}')
