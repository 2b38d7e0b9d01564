"""What comes of odd values: each comes through unchanged, ends in its own row's error, or is refused before an engine starts.

    python bench/values.py                     # all kinds with the echo engine, some ten minutes on two cores
    python bench/values.py --only "CSV cells" "Arrow types"
    python bench/values.py --vllm              # the settings of requests once more, through vLLM on CPU with the demo model

Writes the table "Values tried" in bench/RELIABILITY.md. Each kind is a list of members; whole runs are made of them, and
each member's outcome is read from the rows that come out, or from the error that was raised. A member that hangs, is
lost, is changed on its way, or ends the run of others is "wrong" and is printed; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import datetime
import decimal
import gzip
import json
import math
import os
import platform
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "bench" / "RELIABILITY.md"
HEADING = "## Values tried"
UNCHANGED, ROW_ERROR, REFUSED = "unchanged", "row error", "refused"
STALL_S = 60.0  # what answers nothing for so long hangs

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config  # noqa: E402
from rayllm_batch.errors import RayLLMBatchError  # noqa: E402

Outcome = tuple[str, str]  # a member, and what came of it: one of the three above, or what is wrong


def engine(vllm: bool = False, **override: Any) -> Any:
    kwargs: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": 8} if vllm else {"max_model_len": 4096}
    kwargs["speculative_config"] = None  # which excludes settings that are good by themselves
    return init_engine_from_config(
        ROOT / "configs/demo-cpu.yaml",
        override={"llm_engine": "vllm" if vllm else "echo", "engine_kwargs": kwargs, **override},
    )


class Rows(ChatWorkloadBase):
    """Rows 0..count-1 in memory; `chats` has what parse_row returns for a row, or raises, in place of a plain chat."""

    count: int = 8
    chats: dict = field(default_factory=dict)
    sampling_params: dict = field(default_factory=lambda: {"max_tokens": 8, "temperature": 0.0})

    def load_dataset(self) -> Any:
        import ray.data

        return ray.data.from_items([{"n": n} for n in range(self.count)])

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.chats.get(row["n"], plain(row["n"]))


class Loaded(ChatWorkloadBase):
    """What `load` returns, or the files of dataset_file; the prompt is the same for each row."""

    load: Any = None
    sampling_params: dict = field(default_factory=lambda: {"max_tokens": 4, "temperature": 0.0})

    def load_dataset(self) -> Any:
        return super().load_dataset() if self.load is None else self.load()

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return plain(0)


def plain(n: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"number {n} of a long list of things to say and to count"}]}


def shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + "..."


def answers(workload: Any, *where: Any, config: Any = None, **how: Any) -> list[dict[str, Any]]:
    options = {"stall_timeout_s": STALL_S, **how}
    return RayLLMBatch(config or engine(), workload, **options).run(*where).take_all()


def refusal(make: Callable[[], Any], *words: str) -> str:
    """What comes of a call that must be refused, by one of our errors that has each of the words."""
    try:
        make()
    except RayLLMBatchError as error:
        lacking = [word for word in words if word.lower() not in str(error).lower()]
        return f"the error does not say {lacking}: {error}" if lacking else REFUSED
    except Exception as error:
        return f"not one of our errors: {type(error).__name__}: {error}"
    return "accepted"


def same(was: Any, now: Any) -> bool:
    """Equal, in value and kind; what Arrow adds to a dict for the sake of other rows is null, and no change."""
    if isinstance(was, dict) and isinstance(now, dict):
        return all(same(was.get(key), now.get(key)) for key in {*was, *now})
    if isinstance(was, (list, tuple, np.ndarray)) and isinstance(now, (list, tuple, np.ndarray)):
        return len(was) == len(now) and all(map(same, was, now))
    if isinstance(was, float) and isinstance(now, float):
        return was == now or math.isnan(was) and math.isnan(now)
    return (
        was == now and isinstance(was, bool) == isinstance(now, bool) and isinstance(was, str) == isinstance(now, str)
    )


# --- settings of requests --------------------------------------------------------------------------------------------

BAD_SETTINGS: list[tuple[str, Any]] = [
    *[("max_tokens", value) for value in (0, -1, 16.0, "16", True, 1e9, float("nan"), [8], 2**70, "")],
    *[("min_tokens", value) for value in (-1, 2.0, "2", 9, True, [])],
    *[("temperature", value) for value in (-0.5, "0.7", "hot", float("nan"), float("inf"), [1.0], {})],
    *[("top_p", value) for value in (0, -0.1, 1.5, "0.9", float("nan"))],
    *[("top_k", value) for value in (-5, 2.5, "40", True)],
    *[("min_p", value) for value in (-0.1, 1.1, "0")],
    *[("presence_penalty", value) for value in (2.5, -3, "1")],
    *[("frequency_penalty", value) for value in (2.5, -3, "x")],
    *[("repetition_penalty", value) for value in (0, -1.0, "1.1")],
    *[("seed", value) for value in (1.0, "7", 2**64, True, [1])],
    *[("stop", value) for value in (5, [5], {"a": 1}, [""], [None], "")],
    *[("stop_token_ids", value) for value in (5, ["a"], [1.5], [None])],
    *[("ignore_eos", value) for value in (1, "true", 0.0)],
    *[("skip_special_tokens", value) for value in (1, "no")],
    *[("detokenize", value) for value in (0, "yes")],
    *[("include_stop_str_in_output", value) for value in (1, "yes")],
    *[("logit_bias", value) for value in ({"x": 1.0}, {5: "a"}, [5], "5", {-1: 1.0})],
    *[("allowed_token_ids", value) for value in ([], ["a"], 5, [1.5])],
    *[("bad_words", value) for value in (5, [5], "")],
    *[("n", value) for value in (0, 2, 1.0, "1")],
    *[("logprobs", value) for value in (1, 5)],
    *[
        ("max_token", 5),
        ("temprature", 0.1),
        ("guided_json", {}),
        ("response_format", {"type": "json_object"}),
        ("stream", True),
    ],
    *[("structured_outputs", value) for value in ("json", {"jsn": {}}, {"regex": "a", "choice": ["b"]}, {})],
    *[("output_kind", 1), ("extra_args", "x")],
]
GOOD_SETTINGS: list[tuple[str, Any]] = [
    ("max_tokens", np.int64(5)),
    ("max_tokens", np.uint8(5)),
    ("temperature", np.float32(0.5)),
    ("temperature", 1),
    ("top_p", 1),
    ("top_k", -1),
    ("top_k", 0),
    ("seed", np.int32(3)),
    ("ignore_eos", np.bool_(True)),
    ("stop", ["a", "b"]),
    ("stop", "z"),
    ("stop", np.array(["q"])),
    ("stop_token_ids", np.array([3, 4])),
    ("stop_token_ids", (3,)),
    ("max_tokens", None),
    ("temperature", None),
    ("stop", None),
    ("min_tokens", 0),
    ("seed", None),
    ("repetition_penalty", 1),
    ("min_p", 0),
    ("presence_penalty", -2),
    ("frequency_penalty", 2),
    ("logit_bias", {"300": 5.0}),
    ("bad_words", ["zzz"]),
]


def settings_of_rows(vllm: bool = False) -> Iterator[Outcome]:
    members = [*[(*member, False) for member in BAD_SETTINGS], *[(*member, True) for member in GOOD_SETTINGS]]
    first = 8  # of which the first rows are tried before the run
    chats = {first + n: {**plain(n), "sampling_params": {key: value}} for n, (key, value, _) in enumerate(members)}
    rows = answers(Rows(count=first + len(members), chats=chats), config=engine(vllm))
    found = {row["n"]: row for row in rows}
    if len(rows) != first + len(members) or any(found[n]["error"] for n in range(first)):
        yield (
            "the rows beside",
            f"{len(rows)} rows for {first + len(members)}, {[found[n]['error'] for n in range(first)]}",
        )
    for n, (key, value, good) in enumerate(members):
        row = found[first + n]
        if good:
            outcome = UNCHANGED if row["error"] is None and row["num_generated_tokens"] <= 8 else f"{row['error']}"
        else:
            outcome = ROW_ERROR if key in (row["error"] or "") else f"error {row['error']!r}"
        yield f"{key}={shown(value)}", outcome


def settings_of_rows_in_vllm() -> Iterator[Outcome]:
    yield from settings_of_rows(vllm=True)


def settings_of_the_workload() -> Iterator[Outcome]:
    for key, value in BAD_SETTINGS:
        params = {"max_tokens": 8, "temperature": 0.0, key: value}
        yield (
            f"{key}={shown(value)}",
            refusal(lambda params=params: RayLLMBatch(engine(), Rows(sampling_params=params)), key),
        )
    for together in (
        {"max_tokens": 4, "min_tokens": 5},
        {"stop": ["x"], "detokenize": False},
        {"temperature": 0.0, "n": 3},
    ):
        made = refusal(lambda together=together: RayLLMBatch(engine(), Rows(sampling_params=together)))
        yield f"{together}", made


# --- files -----------------------------------------------------------------------------------------------------------

JSON_VALUES: list[Any] = [
    "2024-03-01",
    "2024-03-01T10:00:00Z",
    "2024-03-01 10:00:00.123456+02:00",
    "10:30",
    "2024",
    "02134",
    "+4930123",
    "007",
    "1e5",
    "NaN",
    "null",
    "NA",
    "",
    " ",
    "true",
    "Ünïcode ✓ 漢字 🎉",
    "a\u0000b",
    "line\nbreak\ttab",
    '\\"quoted\\"',
    "x" * 100_000,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
    2**64,
    10**24 + 7,
    -(10**24) - 7,
    0.1,
    1e-300,
    1.7976931348623157e308,
    -0.5,
    123456789.123456789,
    True,
    False,
    None,
    [],
    [1, 2, 3],
    ["a", None],
    [[1], [2, 3]],
    {"a": 1},
    {"a": {"b": {"c": "2024-01-01"}}},
    {"a": [{"b": 2**64 + 1}]},
    [{"x": "1"}, {"y": 2}],
    {"ключ": "значение"},
    [True, False],
]
CSV_CELLS = [
    "02134",
    "NA",
    "N/A",
    "null",
    "NULL",
    "None",
    "nan",
    "true",
    "TRUE",
    "no",
    "2024-03-01",
    "01/02/2024",
    "1.10",
    "1,5",
    "1e5",
    "12345678901234567890",
    "+49 30 123",
    "-",
    "0x1F",
    " padded ",
    "Zürich",
    "漢字",
    "🎉",
    'a "quoted" word',
    "two\nlines",
    "=1+1",
    "'",
    ";",
    "\t",
    "x" * 200_000,
    "1970",
    "0",
    "00",
    "inf",
    "1_000",
    "café",
]


def through(
    workload: Any, key: Callable[[dict[str, Any]], Any], wanted: dict[Any, Any], config: Any = None
) -> Iterator[Outcome]:
    """The rows in memory, and in a folder of each format: in each way, `wanted` by key."""
    for way in ("memory", "parquet", "jsonl"):
        folder = tempfile.mkdtemp()
        try:
            batch = RayLLMBatch(config or engine(), workload, stall_timeout_s=STALL_S)
            rows = (batch.run() if way == "memory" else batch.run(f"{folder}/out", output_format=way)).take_all()
        except Exception as error:
            yield f"all, {way}", f"the run ended: {type(error).__name__}: {error}"
            continue
        finally:
            shutil.rmtree(folder)
        yield (
            f"number of rows, {way}",
            UNCHANGED if len(rows) == len({key(row) for row in rows}) == len(wanted) else f"{len(rows)}",
        )
        found = {key(row): row for row in rows}
        for name, value in wanted.items():
            now = found.get(name, {})
            good = name in found and now["error"] is None and same(value, now["value"])
            yield (
                f"{shown(value)}, {way}",
                UNCHANGED if good else f"{shown(now.get('value'))}, error {now.get('error')!r}",
            )


def json_lines_one_kind_a_column() -> Iterator[Outcome]:
    """Each value in a column of its own, in a file of its own, small and by URI."""
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(("path", "uri", "json array", "gzip")):
            row = {f"c{n}": value for n, value in enumerate(JSON_VALUES)}
            path = (
                Path(folder)
                / f"rows{number}.{'json' if way == 'json array' else 'jsonl'}{'.gz' if way == 'gzip' else ''}"
            )
            text = json.dumps([row, row]) if way == "json array" else (json.dumps(row) + "\n") * 2
            path.write_bytes(gzip.compress(text.encode()) if way == "gzip" else text.encode())
            rows = answers(Loaded(dataset_file=path.as_uri() if way == "uri" else str(path)))
            for n, value in enumerate(JSON_VALUES):
                good = len(rows) == 2 and all(same(value, now[f"c{n}"]) and now["error"] is None for now in rows)
                yield f"{shown(value)}, {way}", UNCHANGED if good else f"{shown(rows[0][f'c{n}'])}"


def json_lines_all_kinds_in_one_column() -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps({"n": n, "value": value}) + "\n" for n, value in enumerate(JSON_VALUES)))
        yield from through(Loaded(dataset_file=str(path)), lambda row: row["n"], dict(enumerate(JSON_VALUES)))


def csv_cells() -> Iterator[Outcome]:
    import csv

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["n", "value"])
            writer.writerows(enumerate(CSV_CELLS))
        wanted = {str(n): cell for n, cell in enumerate(CSV_CELLS)}
        yield from through(Loaded(dataset_file=str(path)), lambda row: row["n"], wanted)


def encodings() -> Iterator[Outcome]:
    text = "Straße, café, naïve, ¿qué?"
    with tempfile.TemporaryDirectory() as folder:
        for encoding in (
            "utf-8",
            "utf-8-sig",
            "utf-16",
            "utf-16-le",
            "utf-32",
            "latin-1",
            "cp1252",
            "cp850",
            "mac-roman",
            "iso8859-15",
        ):
            for kind in ("csv", "jsonl", "json"):
                row = {
                    "csv": f'n,value\n1,"{text}"\n',
                    "jsonl": json.dumps({"n": 1, "value": text}, ensure_ascii=False) + "\n",
                }
                path = Path(folder) / f"{encoding}.{kind}"
                path.write_bytes(row.get(kind, f"[{row['jsonl']}]").encode(encoding))
                try:
                    rows = Loaded(dataset_file=str(path)).load_dataset().take_all()
                except RayLLMBatchError as error:
                    yield (
                        f"{kind} in {encoding}",
                        REFUSED if "UTF-8" in str(error) else f"the error does not say UTF-8: {error}",
                    )
                else:
                    good = len(rows) == 1 and rows[0]["value"] == text
                    yield f"{kind} in {encoding}", UNCHANGED if good else shown(rows[0].get("value"))


def files_that_are_something_else() -> Iterator[Outcome]:
    table = pa.table({"text": ["a", "b"]})
    sink = pa.BufferOutputStream()
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, sink)
    parquet = sink.getvalue().to_pybytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"
    page = b"<!DOCTYPE html><html><body>Sign in</body></html>"
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "a.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("xl/workbook.xml", "<workbook/>")
        disguises = {
            "Git LFS pointer": (pointer, "LFS"),
            "HTML page": (page, "HTML"),
            "Excel file": (archive.read_bytes(), "Excel"),
            "parquet file": (parquet, "parquet"),
            "gzip": (gzip.compress(b'{"text": "a"}\n'), "gzip"),
            "PNG": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, ""),
            "PDF": (b"%PDF-1.7\n" + bytes(range(256)), ""),
            "nothing but zeros": (b"\0" * 300, ""),
        }
        for name, (content, word) in disguises.items():
            for ending in ("jsonl", "json", "csv", "parquet"):
                if name == "parquet file" and ending == "parquet":
                    continue
                path = Path(folder) / f"rows.{ending}"
                path.write_bytes(content)
                words = [word] if word else []
                made = refusal(
                    lambda path=path: RayLLMBatch(engine(), Loaded(dataset_file=str(path))).check(),
                    str(path.name),
                    *words,
                )
                yield f"{name} as .{ending}", made


def bad_lines() -> Iterator[Outcome]:
    lines = [
        '{"text": "a"',
        "text",
        '{"text": }',
        "[1, 2]",
        "5",
        '{"text": "a"} {"text": "b"}',
        "{'text': 'a'}",
        '{"text": "\x01"}',
        '"a"',
        "null",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            for at in (2, 3000):  # one that begins with [ in the first line makes the file an array
                path = Path(folder) / "rows.jsonl"
                good = ['{"text": "good"}'] * (at - 1)
                path.write_text("\n".join([*good, line, '{"text": "good"}']) + "\n")
                made = refusal(
                    lambda path=path: RayLLMBatch(engine(), Loaded(dataset_file=str(path))).check(), f"line {at} "
                )
                yield f"{line} in line {at}", made


# --- columns ---------------------------------------------------------------------------------------------------------


def _columns() -> dict[str, pa.Array]:
    when = datetime.datetime(2024, 3, 1, 10, 30, 1, 123456)
    return {
        "struct": pa.array([{"a": 1, "b": "x"}, None]),
        "struct without fields": pa.array([{}, {}], pa.struct([])),
        "list of structs without fields": pa.array([[{}], []], pa.list_(pa.struct([]))),
        "struct with an empty struct": pa.array([{"a": {}}, None], pa.struct([("a", pa.struct([]))])),
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "float16": pa.array(np.array([1.5, -2], np.float16)),
        "map of maps": pa.array(
            [[("k", [("l", 1.5)])], None], pa.map_(pa.string(), pa.map_(pa.string(), pa.float64()))
        ),
        "string_view": pa.array(["a", None], pa.string_view()),
        "binary_view": pa.array([b"\xff", b""], pa.binary_view()),
        "large_string": pa.array(["a", "b"], pa.large_string()),
        "large_list": pa.array([[1], []], pa.large_list(pa.int8())),
        "list of string_view": pa.array([["a"], None], pa.list_(pa.string_view())),
        "binary": pa.array([b"\x00\xff", None]),
        "fixed_size_binary": pa.array([b"ab", b"cd"], pa.binary(2)),
        "fixed_size_list": pa.array([[1, 2], [3, 4]], pa.list_(pa.int16(), 2)),
        "dictionary": pa.array(["x", "y"]).dictionary_encode(),
        "decimal128": pa.array([decimal.Decimal("1.10"), None]),
        "decimal256": pa.array([decimal.Decimal("1" * 50)] * 2, pa.decimal256(60, 0)),
        "uint64": pa.array([2**64 - 1, 0], pa.uint64()),
        "int8": pa.array([-128, 127], pa.int8()),
        "float32": pa.array([0.1, None], pa.float32()),
        "nan": pa.array([float("nan"), 1.0]),
        "bool": pa.array([True, None]),
        "null": pa.nulls(2),
        "date32": pa.array([when.date()] * 2),
        "date64": pa.array([when.date()] * 2, pa.date64()),
        "time32": pa.array([when.time().replace(microsecond=0)] * 2, pa.time32("s")),
        "time64": pa.array([when.time()] * 2, pa.time64("us")),
        "timestamp": pa.array([when, None], pa.timestamp("us")),
        "timestamp with zone": pa.array([when, None], pa.timestamp("us", "Europe/Berlin")),
        "timestamp in ns": pa.array([1_709_287_200_123_456_000, None], pa.timestamp("ns")),
        "duration": pa.array([datetime.timedelta(days=3)] * 2, pa.duration("us")),
        "empty strings": pa.array(["", ""]),
        "month_day_nano_interval": pa.array([pa.MonthDayNano([1, 2, 3])] * 2),
        "list_view": pa.array([[1, 2], []], pa.list_view(pa.int64())),
        "run_end_encoded": pa.RunEndEncodedArray.from_arrays([2], ["a"]),
        "dense union": pa.UnionArray.from_dense(
            pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
        ),
    }


def arrow_types() -> Iterator[Outcome]:
    """All columns in one run, in memory and in folders: each comes through. If the run ends, each in a run of its own."""
    columns = _columns()
    for way in ("memory", "parquet", "jsonl"):
        try:
            rows = _of_table(columns, way)
        except Exception:
            for name, column in columns.items():
                try:
                    rows = _of_table({name: column}, way)
                except Exception as error:
                    yield f"{name}, {way}", f"the run ended: {type(error).__name__}: {str(error)[:200]}"
                else:
                    yield f"{name}, {way}", _came_through(column, rows, name, way)
        else:
            for name, column in columns.items():
                yield f"{name}, {way}", _came_through(column, rows, name, way)


def _of_table(columns: dict[str, pa.Array], way: str) -> list[dict[str, Any]]:
    import ray.data

    table = pa.table({"n": [1, 2], **columns})
    with tempfile.TemporaryDirectory() as folder:
        batch = RayLLMBatch(engine(), Loaded(load=lambda: ray.data.from_arrow(table)), stall_timeout_s=STALL_S)
        result = batch.run() if way == "memory" else batch.run(f"{folder}/out", output_format=way)
        return sorted(result.take_all(), key=lambda row: row["n"])


def _came_through(column: pa.Array, rows: list[dict[str, Any]], name: str, way: str) -> str:
    wanted, now = column.to_pylist(), [row[name] for row in rows]
    good = len(rows) == 2 and all(row["error"] is None for row in rows)
    if way == "jsonl":  # JSON has fewer types: see run() for what stands for the others; a null stays one
        good = good and all((a is None) == (b is None) for a, b in zip(wanted, now, strict=True))
    else:
        good = good and (same(wanted, now) or [str(value) for value in wanted] == [str(value) for value in now])
    return UNCHANGED if good else f"{shown(wanted)} became {shown(now)}"


def blocks_that_differ() -> Iterator[Outcome]:
    """Two blocks, in which a column's type is not the same; all such columns in one run each way."""
    import ray.data

    columns: dict[str, list[Any]] = {
        "number and text": [1, "a"],
        "whole number and fraction": [1, 2.5],
        "text and null": ["a", None],
        "number and list": [1, [1]],
        "number and object": [1, {"a": 1}],
        "objects with other keys": [{"a": 1}, {"b": "x"}],
        "lists of other kinds": [[1], ["a"]],
        "true and text": [True, "yes"],
        "null first": [None, {"a": 1}],
        "large number and text": [2**62, "x"],
        "true and number": [True, 7],
        "large number and fraction": [2**60 + 1, 0.5],
        "number and number as text": [5, "5"],
        "empty list and text": [[], ["a"]],
        "object and list": [{"a": 1}, [1]],
        "nested": [{"a": {"b": 1}}, {"a": {"b": "x"}}],
    }
    blocks = [pa.table({"n": [n], **{name: pa.array([values[n]]) for name, values in columns.items()}}) for n in (0, 1)]
    for way in ("memory", "parquet", "jsonl"):
        with tempfile.TemporaryDirectory() as folder:
            batch = RayLLMBatch(engine(), Loaded(load=lambda: ray.data.from_arrow(blocks)), stall_timeout_s=STALL_S)
            result = batch.run() if way == "memory" else batch.run(f"{folder}/out", output_format=way)
            rows = sorted(result.take_all(), key=lambda row: row["n"])
        yield f"number of rows, {way}", UNCHANGED if [row["n"] for row in rows] == [0, 1] else f"{rows}"
        for name, values in columns.items():
            now = [row[name] for row in rows]
            yield f"{name}, {way}", UNCHANGED if same(values, now) else f"{shown(values)} became {shown(now)}"


# --- what parse_row returns, and what messages hold ------------------------------------------------------------------


def _chats() -> dict[str, tuple[Any, Optional[str]]]:
    """What parse_row returns, and a word of the row's error; None where it is answered."""
    message = {"role": "user", "content": "hello there"}

    def content(value: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": value}]}

    return {
        "nothing": (None, "parse_row"),
        "text": ("hello", "parse_row"),
        "a list": ([message], "parse_row"),
        "no key": ({}, "messages"),
        "message": ({"message": [message]}, "messages"),
        "no message": ({"messages": []}, "messages"),
        "messages as text": ({"messages": "hello"}, "messages"),
        "messages as JSON": ({"messages": json.dumps([message])}, "messages"),
        "a message without role": ({"messages": [{"content": "x"}]}, "role"),
        "role as number": ({"messages": [{"role": 1, "content": "x"}]}, "role"),
        "a message without content": ({"messages": [{"role": "user"}]}, "content"),
        "temperature beside": ({"messages": [message], "temperature": 1}, "temperature"),
        "max_tokens beside": ({"messages": [message], "max_tokens": 5}, "max_tokens"),
        "message_s beside": ({"messages": [message], "sampling_parms": {}}, "sampling_parms"),
        "images beside": ({"messages": [message], "images": ["x.png"]}, "images"),
        "tools beside": ({"messages": [message], "tools": []}, "tools"),
        "prompt beside": ({"messages": [message], "prompt": "x"}, "prompt"),
        "both": ({"messages": [message], "prompt_token_ids": [1]}, "prompt_token_ids"),
        "sampling_params as text": ({"messages": [message], "sampling_params": "x"}, "sampling_params"),
        "sampling_params as list": ({"messages": [message], "sampling_params": [1]}, "sampling_params"),
        "model as number": ({"messages": [message], "model": 5}, "model"),
        "no token id": ({"prompt_token_ids": []}, "prompt_token_ids"),
        "token ids as text": ({"prompt_token_ids": ["1"]}, "prompt_token_ids"),
        "a token id below 0": ({"prompt_token_ids": [-1]}, "prompt_token_ids"),
        "a token id of 1.5": ({"prompt_token_ids": [1.5]}, "prompt_token_ids"),
        "token ids": ({"prompt_token_ids": [5, 6, 7]}, None),
        "token ids of NumPy": ({"prompt_token_ids": np.array([5, 6, 7])}, None),
        "token id 2**40": ({"prompt_token_ids": [2**40]}, "prompt_token_ids"),
        "empty text": (content(""), None),
        "content None": (content(None), "content"),
        "content 5": (content(5), "content"),
        "content bytes": (content(b"abc"), "content"),
        "content a dict": (content({"text": "a"}), "content"),
        "a text part": (content([{"type": "text", "text": "hello there"}]), None),
        "two text parts": (content([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), None),
        "an image": (
            content(
                [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
                ]
            ),
            "image_url",
        ),
        "a sound": (content([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]), "input_audio"),
        "a video": (content([{"type": "video_url", "video_url": {"url": "x"}}]), "video_url"),
        "a part without type": (content([{"text": "a"}]), "type"),
        "a bare text in parts": (content(["a"]), "part"),
        "a text part without text": (content([{"type": "text"}]), "text"),
        "an unknown part": (content([{"type": "txt", "text": "a"}]), "txt"),
        "no part": (content([]), "content"),
        "half of a surrogate pair": (content("a \ud83d b"), "surrogate"),
        "NUL": (content("a\0b"), None),
        "100,000 words": (content("word " * 100_000), "max_model_len"),
        "right to left": (content("مرحبا بالعالم"), None),
        "emoji": (content("👩‍👩‍👧‍👦🏳️‍🌈"), None),
        "special tokens as text": (content("<|end|><|assistant|>"), None),
        "a tuple of messages": ({"messages": (message,)}, None),
        "control characters": (content("\x1b[31mred\x07"), None),
    }


def parse_row_results() -> Iterator[Outcome]:
    members, first = _chats(), 8
    chats = {first + n: chat for n, (chat, _) in enumerate(members.values())}
    rows = answers(Rows(count=first + len(members), chats=chats))
    found = {row["n"]: row for row in rows}
    if len(rows) != first + len(members):
        yield "the rows beside", f"{len(rows)} rows for {first + len(members)}"
    for n, (name, (_, word)) in enumerate(members.items()):
        error = found[first + n]["error"]
        if word is None:
            yield name, UNCHANGED if error is None else f"error {error!r}"
        else:
            yield name, ROW_ERROR if word in (error or "") else f"error {error!r}, which does not say {word!r}"


class Raising(Rows):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] >= 8:
            raise self.chats[row["n"]]("with\nlines and a \ud800 half")
        return plain(row["n"])


def what_parse_row_raises() -> Iterator[Outcome]:
    kinds = [
        ValueError,
        KeyError,
        IndexError,
        RuntimeError,
        StopIteration,
        AssertionError,
        RecursionError,
        MemoryError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        OSError,
        TimeoutError,
        UnicodeError,
        NotImplementedError,
    ]
    rows = {
        row["n"]: row
        for row in answers(Raising(count=8 + len(kinds), chats={8 + n: kind for n, kind in enumerate(kinds)}))
    }
    for n, kind in enumerate(kinds):
        error = rows[8 + n]["error"] or ""
        yield kind.__name__, ROW_ERROR if kind.__name__ in error and len(rows) == 8 + len(kinds) else f"error {error!r}"


# --- what is known before an engine ----------------------------------------------------------------------------------


def model_folders() -> Iterator[Outcome]:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"

    def without(name: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).unlink()

    def cut(name: str, size: int) -> Callable[[Path], None]:
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])

    def put(name: str, content: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).write_text(content) and None

    def shards(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def too_long(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(struct.pack("<Q", 1 << 40) + weights.read_bytes()[8:])

    def adapter(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
        (folder / "adapter_model.safetensors").write_bytes(b"")

    damages: dict[str, tuple[Callable[[Path], Any], str]] = {
        "no config.json": (without("config.json"), "config.json"),
        "config.json cut short": (cut("config.json", 20), "config.json"),
        "config.json a pointer": (put("config.json", pointer), "config.json"),
        "config.json empty": (put("config.json", ""), "config.json"),
        "config.json a list": (put("config.json", "[]"), "config.json"),
        "no weights": (without("model.safetensors"), "safetensors"),
        "weights a pointer": (put("model.safetensors", pointer), "model.safetensors"),
        "weights empty": (put("model.safetensors", ""), "model.safetensors"),
        "weights of 4 bytes": (cut("model.safetensors", 4), "model.safetensors"),
        "weights cut in the header": (cut("model.safetensors", 100), "model.safetensors"),
        "weights cut by a byte": (
            lambda f: cut("model.safetensors", (f / "model.safetensors").stat().st_size - 1)(f),
            "model.safetensors",
        ),
        "weights with a wild header": (too_long, "model.safetensors"),
        "a page as weights": (put("model.safetensors", "<!DOCTYPE html>" + " " * 100), "model.safetensors"),
        "a shard missing": (shards, "model-00002-of-00002.safetensors"),
        "a tokenizer pointer": (put("tokenizer.json", pointer), "tokenizer.json"),
        "tokenizer.json cut short": (cut("tokenizer.json", 1000), "tokenizer.json"),
        "an adapter": (adapter, "adapter"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (damage, word) in damages.items():
            model = Path(folder) / name.replace(" ", "-")
            shutil.copytree(ROOT / "assets/demo-model", model)
            damage(model)
            config = init_engine_from_config(ROOT / "configs/demo-cpu.yaml", override={"model_id": str(model)})
            yield name, refusal(lambda config=config: RayLLMBatch(config, Rows()).check(), word)


def accelerators() -> Iterator[Outcome]:
    for name in ("A10GG", "H1000", "A100-41G", "RTX", "L44", "CUDA", "cpuu", "T-4", "GPU0", "nvidia"):

        def tried(name: str = name) -> None:
            config = init_engine_from_config(ROOT / "configs/demo-cpu.yaml", override={"accelerator_type": name})
            RayLLMBatch(config, Rows()).check()

        yield name, refusal(tried, name)


def ids() -> Iterator[Outcome]:
    import ray.data

    members: dict[str, list[Any]] = {
        "twice": [1, 2, 1],
        "text twice": ["a", "b", "a"],
        "null": [1, None, 2],
        "all null": [None, None, None],
        "lists twice": [[1], [2], [1]],
        "no such column": [],
    }
    for name, values in members.items():
        rows = [{"n": n, "key": value} for n, value in enumerate(values)] or [{"n": 1}]
        with tempfile.TemporaryDirectory() as folder:
            batch = RayLLMBatch(engine(), Loaded(load=lambda rows=rows: ray.data.from_items(rows)))
            yield name, refusal(lambda batch=batch, folder=folder: batch.check(f"{folder}/out", id_column="key"), "key")


KINDS: dict[str, Callable[[], Iterable[Outcome]]] = {
    "a row's sampling_params": settings_of_rows,
    "the workload's sampling_params": settings_of_the_workload,
    "what parse_row returns, messages": parse_row_results,
    "what parse_row raises": what_parse_row_raises,
    "JSON values, a column each": json_lines_one_kind_a_column,
    "JSON values, all in one column": json_lines_all_kinds_in_one_column,
    "CSV cells": csv_cells,
    "encodings": encodings,
    "files that are something else": files_that_are_something_else,
    "bad lines": bad_lines,
    "Arrow types": arrow_types,
    "blocks that differ in a column's type": blocks_that_differ,
    "model folders": model_folders,
    "accelerator names": accelerators,
    "id columns": ids,
}
WITH_VLLM: dict[str, Callable[[], Iterable[Outcome]]] = {
    "a row's sampling_params, vLLM on CPU": settings_of_rows_in_vllm
}


@dataclass
class Tried:
    """One kind's members, by what came of them. hung: seconds that the kind took, for the reader to see that none waited."""

    seconds: float
    outcomes: list[Outcome]

    def count(self, *whats: str) -> int:
        return sum(what in whats for _, what in self.outcomes)

    @property
    def wrong(self) -> list[Outcome]:
        return [(member, what) for member, what in self.outcomes if what not in (UNCHANGED, ROW_ERROR, REFUSED)]


def try_kind(members: Callable[[], Iterable[Outcome]]) -> Tried:
    began, outcomes = time.perf_counter(), []
    try:
        outcomes.extend(members())
    except Exception as error:  # a whole run that ended: none of its members came through
        outcomes.append(("the run", f"it ended: {type(error).__name__}: {error}"))
    return Tried(time.perf_counter() - began, outcomes)


def table(tried: dict[str, Tried]) -> list[str]:
    lines = [
        "| kind | values | came through unchanged | the row's own error | refused before an engine | wrong, hung or lost | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kind in tried.items():
        counts = (kind.count(UNCHANGED), kind.count(ROW_ERROR), kind.count(REFUSED), len(kind.wrong))
        lines.append(f"| {name} | {len(kind.outcomes)} | {' | '.join(map(str, counts))} | {kind.seconds:.0f} |")
    sums = Counter({n: 0 for n in range(5)})
    for kind in tried.values():
        for n, number in enumerate(
            (len(kind.outcomes), kind.count(UNCHANGED), kind.count(ROW_ERROR), kind.count(REFUSED), len(kind.wrong))
        ):
            sums[n] += number
    return [
        *lines,
        f"| all | {' | '.join(str(sums[n]) for n in range(5))} | {sum(kind.seconds for kind in tried.values()):.0f} |",
    ]


def write(report: Path, tried: dict[str, Tried]) -> None:
    """In place of the section that is there."""
    import ray

    text = report.read_text(encoding="utf-8") if report.exists() else ""
    before, _, after = text.partition(HEADING)
    rest = after.partition("\n## ")[2]
    made = (
        f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}, Ray {ray.__version__}, pyarrow "
        f"{pa.__version__}. Made by `python bench/values.py`, where every value stands; a value that goes several ways (in memory, to "
        "parquet, to JSON lines; by path, by URI) counts once each way. Seconds are of the whole kind: none waited for a time-out."
    )
    section = "\n".join([HEADING, "", made, "", *table(tried), ""])
    wrong = [f"- {name}: {member}: {what}" for name, kind in tried.items() for member, what in kind.wrong]
    section += "\n" + "\n".join(["Wrong:", "", *wrong, ""]) if wrong else ""
    report.write_text(f"{before.rstrip()}\n\n{section}" + (f"\n## {rest}" if rest else ""), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=None, metavar="KIND", help=f"of: {', '.join([*KINDS, *WITH_VLLM])}"
    )
    parser.add_argument("--vllm", action="store_true", help="with vLLM on CPU too")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    kinds = {**KINDS, **(WITH_VLLM if args.vllm or args.only else {})}
    if args.only:
        kinds = {name: kinds[name] for name in args.only}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tried = {}
    for name, members in kinds.items():
        tried[name] = try_kind(members)
        print(
            f"{name}: {len(tried[name].outcomes)} values in {tried[name].seconds:.0f} s, {len(tried[name].wrong)} wrong",
            flush=True,
        )
        for member, what in tried[name].wrong:
            print(f"  {member}: {what[:400]}", flush=True)
    if not args.only:
        write(args.output, tried)
    print("\n".join(table(tried)))
    return int(any(kind.wrong for kind in tried.values()))


if __name__ == "__main__":
    sys.exit(main())
