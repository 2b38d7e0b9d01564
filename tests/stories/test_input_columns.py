"""Whole runs through a real Ray: columns of every type, blocks of other types, the order of reading, what failed."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import DatasetError, OutputError
from util.results import show_results

pytestmark = pytest.mark.ray
PLACES = ["memory", "parquet", "jsonl"]


def echo():
    return init_engine_from_config("configs/demo-cpu.yaml", override={"llm_engine": "echo", "engine_kwargs": {}})


def run(workload, place, path, **kwargs):
    made = {
        "batch_size": 16,
        "stall_timeout_s": 120,
        **{name: kwargs.pop(name) for name in ("preserve_order",) if name in kwargs},
    }
    batch = RayLLMBatch(echo(), workload, **made)
    return batch.run() if place == "memory" else batch.run(path, output_format=place, **kwargs)


class Blocks(ChatWorkloadBase):
    """Four blocks with a column for each type there is. other: the type that these columns have in the `odd` blocks."""

    other: str = ""
    odd: tuple = ()
    sampling_params: dict = {"max_tokens": 3}

    def blocks(self):
        from column_samples import ENCODED, PLAIN, rays  # here: the class travels, and workers do not have that module

        given = {**PLAIN, **ENCODED, **rays()}
        for block in range(4):
            columns = {name: pa.chunked_array([array] * 30) for name, array in given.items()}
            if block in self.odd:
                columns = {name: pa.chunked_array([PLAIN[self.other]] * 30) for name in given}
            yield pa.table({"n": range(90 * block, 90 * block + 90), **columns})

    def load_dataset(self):
        import ray.data

        return ray.data.from_arrow(list(self.blocks()))

    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": f"number {row['n']} of a long list of things"}]}


def plainly(value):
    """1 is 1.0 here: a column of whole numbers and fractions has fractions."""
    if isinstance(value, dict):
        return {key: plainly(item) for key, item in value.items() if item is not None}
    if hasattr(value, "tolist"):  # Ray gives arrays where Arrow has lists
        return value.tolist()
    return (
        float(value)
        if type(value) is int and abs(value) <= 2**53
        else tuple(value)
        if type(value).__name__ == "MonthDayNano"
        else value
    )


ALIKE, MIXED, LATE = Blocks(), Blocks(other="double", odd=(1, 3)), Blocks(other="null", odd=(0, 1, 2))


@pytest.mark.parametrize(
    ("place", "workload"),
    [
        ("memory", ALIKE),
        ("memory", MIXED),
        ("memory", LATE),
        ("parquet", MIXED),
        ("parquet", LATE),
        ("jsonl", ALIKE),
        ("jsonl", MIXED),
    ],
    ids=[
        "memory, alike",
        "memory, mixed",
        "memory, late",
        "parquet, mixed",
        "parquet, late",
        "jsonl, alike",
        "jsonl, mixed",
    ],
)
def test_every_value_of_every_type_comes_out(ray_cluster, tmp_path, workload, place):
    rows = run(workload, place, tmp_path / "out").take_all()
    found = {row["n"]: row for row in rows}
    assert len(rows) == len(found) == 360 and not any(row["error"] for row in rows)
    for table in workload.blocks():
        for row in table.to_pylist():
            for name, value in row.items():
                assert repr(plainly(found[row["n"]][name])) == repr(plainly(value)), name


def test_a_preview_and_an_estimate_of_such_rows(ray_cluster, capsys):
    batch = RayLLMBatch(echo(), Blocks(other="text", odd=(0, 2)), stall_timeout_s=120)
    batch.preview(100)
    assert "[100]" in capsys.readouterr().out
    assert batch.estimate(sample_rows=32).rows == 360
    batch.release()


class Some(ChatWorkloadBase):
    """Rows 0 to `count`, each of two copies where `twice`; those in `bad` fail while the file `broken` exists."""

    count: int = 300
    twice: bool = False
    bad: tuple = (0, 1, 77, 150, 299)
    broken: str = ""
    sampling_params: dict = {"max_tokens": 3}

    def load_dataset(self):
        import ray.data

        numbers = [n for n in range(self.count) for _ in range(1 + self.twice)]
        return ray.data.from_items([{"n": n, "text": f"t{n}"} for n in numbers], override_num_blocks=7)

    def parse_row(self, row):
        if self.broken and row["n"] in self.bad and Path(self.broken).exists():
            raise ValueError("this row is bad")
        return {"messages": [{"role": "user", "content": f"number {row['n']} of a long list of things"}]}


def lose(folder, output_format):
    """As if a kill had come before the second half of the answered rows was written."""
    inside = folder / "_rayllm_batch"
    for path in sorted(folder.glob(f"part-*.{output_format}"))[1:] or sorted(folder.glob(f"part-*.{output_format}")):
        path.unlink()
        (inside / "rows" / f"{path.name}.ids").unlink()
    (inside / "order.ids").unlink()
    manifest = json.loads((inside / "manifest.json").read_text())
    (inside / "manifest.json").write_text(json.dumps({**manifest, "state": "unfinished"}))


@pytest.mark.parametrize(("output_format", "twice"), [("parquet", True), ("jsonl", False)])
def test_the_order_of_reading_outlives_failures_a_kill_and_retries(
    ray_cluster, tmp_path, monkeypatch, output_format, twice
):
    monkeypatch.setattr("rayllm_batch.output.part_writer.PART_BYTES", 3000)  # some parts
    monkeypatch.setattr("rayllm_batch.output.folder.FEW_PARTS", 1000)  # which stay
    folder, broken = tmp_path / "out", tmp_path / "broken"
    broken.touch()
    workload = Some(broken=str(broken), twice=twice)
    expected = [n for n in range(300) for _ in range(1 + twice)]

    def again(**kwargs):
        result = run(workload, output_format, folder, preserve_order=True, **kwargs)
        rows = result.take_all()
        assert [row["n"] for row in rows] == expected and set(rows[0]) == {"n", "text", *ANSWER}
        return rows

    rows = again()
    assert {row["n"] for row in rows if row["error"]} == set(workload.bad)
    assert all((row["generated_text"] is None) == (row["error"] is not None) for row in rows)
    assert len(list(folder.glob("part-*"))) > 2
    lose(folder, output_format)
    again()
    broken.unlink()
    assert not any(row["error"] for row in again(retry_failed=True))
    again()  # complete
    names = {path.name for path in folder.iterdir() if not path.name.startswith("_")}
    assert names and all(name.startswith("part-") for name in names)


ANSWER = {"generated_text", "num_input_tokens", "num_generated_tokens", "finish_reason", "error"}


@pytest.mark.parametrize("place", PLACES)
def test_failed_rows_are_shown_first_and_counted(ray_cluster, tmp_path, capsys, place):
    broken = tmp_path / "broken"
    broken.touch()
    result = run(Some(count=80, bad=tuple(range(4, 34)), broken=str(broken)), place, tmp_path / "out")
    if place != "memory":
        assert not any(row["error"] for row in result.limit(40).take_all())
    capsys.readouterr()
    show_results(result, input_column="text")
    shown = capsys.readouterr().out
    assert shown.count("error:") == 8 == shown.count("generated_text:") and "80 rows, 30 failed" in shown
    everything = result.to_pandas()
    assert everything["generated_text"].isna().sum() == 30 and (everything["num_generated_tokens"] == 0).sum() == 30


def test_all_rows_failed_and_the_columns_have_their_types(ray_cluster, tmp_path):
    class Bad(Some):
        driver: int = 0

        def parse_row(self, row):
            if os.getpid() != self.driver:  # where all of the first rows fail, no run begins
                raise ValueError("bad")
            return super().parse_row(row)

    for place in PLACES:
        result = run(Bad(count=12, driver=os.getpid()), place, tmp_path / place)
        schema = result.schema().base_schema
        assert schema.field("generated_text").type == schema.field("error").type == pa.string()
        assert [row["generated_text"] for row in result.take_all()] == [None] * 12


class Odd(Some):
    kind: str = ""

    def load_dataset(self):
        import ray.data

        if self.kind == "ours":
            return ray.data.from_items([{"n": 1, "_rayllm_mine": 1}])
        return ray.data.from_items([{"n": 1, "thing": object()}])


@pytest.mark.parametrize(
    ("kind", "error", "named"),
    [("ours", DatasetError, "_rayllm_mine"), ("object", OutputError, "'thing'.*type object")],
)
def test_what_cannot_go_through_is_refused_by_name_before_an_engine(ray_cluster, tmp_path, kind, error, named):
    engine = init_engine_from_config(
        "configs/demo-cpu.yaml", override={"llm_engine": "echo", "engine_kwargs": {"start_error": "reached"}}
    )
    batch = RayLLMBatch(engine, Odd(kind=kind))
    for call in (batch.check, batch.run):
        for output_format in ("parquet", "jsonl"):
            with pytest.raises(error, match=named):
                call(tmp_path / output_format, output_format=output_format)


class FromFile(Some):
    def load_dataset(self):
        return super(Some, self).load_dataset()


@pytest.mark.parametrize("place", ["memory", "jsonl"])
def test_a_late_column_with_a_name_of_the_output_is_an_error_of_its_rows(ray_cluster, tmp_path, monkeypatch, place):
    monkeypatch.setattr(
        "rayllm_batch.data.dataset_file.IN_MEMORY_BYTES", 0
    )  # as a file too large for the driver to read
    late = {
        3500: {"error": "mine"},
        3501: {"generated_text": {"a": 1}},
        3502: {"error": None},
        3503: {"_rayllm_bad_line": 5},
    }
    # Further down than what is looked at before a run.
    lines = [json.dumps({"n": n, "text": "x" * 500, **late.get(n, {})}) for n in range(3510)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    rows = run(
        FromFile(dataset_file=str(tmp_path / "rows.jsonl"), bad_lines="keep"), place, tmp_path / "out"
    ).take_all()
    failed = {row["n"]: row for row in rows if row["error"]}
    assert len(rows) == 3510 and failed.keys() == {3500, 3501, None}
    for n, name in ((3500, "'error'"), (3501, "'generated_text'"), (None, "'_rayllm_bad_line'")):
        assert name in failed[n]["error"] and failed[n]["generated_text"] is None
