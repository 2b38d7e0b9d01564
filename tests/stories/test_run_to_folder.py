"""Runs with an output folder through a real Ray: written as they go, continued, never lost, never doubled."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import ConfigError, DatasetError, OutputError

pytestmark = pytest.mark.ray


def echo(**engine_kwargs):
    return init_engine_from_config(
        "configs/demo-cpu.yaml", override={"llm_engine": "echo", "engine_kwargs": engine_kwargs}
    )


class Repeated(ChatWorkloadBase):
    """Each of `different` rows `times` times; row 13 fails while `broken` exists."""

    different: int = 60
    times: int = 3
    broken: str = ""
    sampling_params: dict = {"max_tokens": 8}

    def load_dataset(self):
        import ray.data

        return ray.data.from_items(
            [{"number": i % self.different, "note": None} for i in range(self.different * self.times)]
        )

    def parse_row(self, row):
        if self.broken and row["number"] == 13 and Path(self.broken).exists():
            raise ValueError("broken")
        return {"messages": [{"role": "user", "content": f"number {row['number']} of a long list of things"}]}


def rows_in(folder):
    """What stands in the files of a folder, read without Ray, which takes seconds each time."""
    import pyarrow.dataset

    files = [str(path) for kind in ("part", "failed") for path in parts(folder, kind)]
    return pyarrow.dataset.dataset(files).to_table().to_pylist()


def numbers(rows):
    return Counter(row["number"] for row in rows)


def metrics(folder):
    return json.loads((folder / "_rayllm_batch" / "metrics.json").read_text())


def as_json(value):
    return json.loads(json.dumps(value))


def parts(folder, kind="part"):
    return sorted(path for path in folder.iterdir() if path.name.startswith(f"{kind}-"))


def rewritten(path, rows):
    """A part as an earlier run would have left it that got no further than its first rows."""
    import pyarrow.parquet

    ids = path.parent / "_rayllm_batch" / "rows" / f"{path.name}.ids"
    head, _, content = ids.read_bytes().partition(b"\n")
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, rows), path)
    header = {**json.loads(head), "rows": rows, "bytes": path.stat().st_size}
    total = json.loads(head)["rows"]
    asked = content[16 * total :]
    ids.write_bytes(json.dumps(header).encode() + b"\n" + content[: 16 * rows] + asked[: 8 * rows])


def test_a_folder_is_written_continued_retried_and_then_complete(ray_cluster, tmp_path, capsys):
    folder, broken = tmp_path / "model=demo", tmp_path / "broken"
    broken.touch()
    workload = Repeated(broken=str(broken))
    everything = Counter({number: 3 for number in range(60)})
    batch = RayLLMBatch(echo(), workload)
    dataset = batch.run(folder)
    assert numbers(dataset.take_all()) == everything
    assert (metrics(folder)["rows"], metrics(folder)["failed_by_kind"]) == (180, {"parse_row": 3})
    assert metrics(folder)["finish_reasons"] == {"length": 177, "error": 3} and metrics(folder) == as_json(
        batch.metrics.to_dict()
    )
    assert batch._execution.history.points[-1].rows == 180 and {"first engine ready", "last row"} <= set(
        batch._execution.history.phases
    )
    report = Path(batch.report(tmp_path / "report.html")).read_text(encoding="utf-8")
    assert "3 of 180 rows failed (2%), all in parse_row." in report and "parse_row: ValueError: broken" in report
    assert set(dataset.schema().names) == {
        "number",
        "note",
        "generated_text",
        "num_input_tokens",
        "num_generated_tokens",
        "finish_reason",
        "error",
    }
    rows = rows_in(folder)
    assert {row["number"] for row in rows if row["error"]} == {13}
    assert "180 rows, 3 failed" in capsys.readouterr().out

    # cut off in the middle: some copies of a row are done, some are not
    done = {row["number"]: row["generated_text"] for row in rows if not row["error"]}
    rewritten(parts(folder)[0], 70)
    RayLLMBatch(echo(), workload).check(folder)
    assert f"Ready to run: 180 rows, 73 of them answered in {folder}, 1 replica(s)" in capsys.readouterr().out
    with pytest.raises(
        OutputError, match='holds another job: workload.sampling_params was {"max_tokens": 8}, is {"max_tokens": 9}'
    ):
        RayLLMBatch(echo(), Repeated(sampling_params={"max_tokens": 9}, broken=str(broken))).check(folder)
    RayLLMBatch(echo(), Repeated(different=61, broken=str(broken))).check(folder)
    assert (
        "not what it was when they were answered (workload.different was 60, is 61): run() finds out"
        in capsys.readouterr().out
    )
    RayLLMBatch(echo(), workload).run(folder)
    assert numbers(rows_in(folder)) == everything
    assert "73 rows are in" in capsys.readouterr().out and metrics(folder)["rows"] == 107, "of the last run"

    broken.unlink()
    RayLLMBatch(echo(), workload).run(folder, retry_failed=True)
    rows = rows_in(folder)
    assert numbers(rows) == everything and not parts(folder, "failed")
    assert {row["number"]: row["generated_text"] for row in rows if row["number"] != 13} == done
    assert all(row["error"] is None for row in rows)

    capsys.readouterr()
    assert RayLLMBatch(echo(start_error="must not be reached"), workload).run(folder).count() == 180
    assert metrics(folder)["rows"] == 3, "a run that has nothing to do leaves them"
    assert "180 rows, 0 failed, 180 answered; there was nothing to run." in capsys.readouterr().out


class Drifting(Repeated):
    """Reads other rows each time."""

    notes: str = ""

    def load_dataset(self):
        import ray.data

        start = int(Path(self.notes).read_text())
        return ray.data.from_items([{"number": i} for i in range(start, start + 30)])


def test_data_that_is_read_differently_each_time_is_said(ray_cluster, tmp_path, capsys):
    notes, folder = tmp_path / "start", tmp_path / "out"
    notes.write_text("0")
    dataset = RayLLMBatch(echo(), Drifting(notes=str(notes))).run(folder, output_format="jsonl", id_column="number")
    assert numbers(dataset.take_all()) == Counter(range(30))
    manifest = folder / "_rayllm_batch" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("complete", "unfinished"))
    notes.write_text("10")
    dataset = RayLLMBatch(echo(), Drifting(notes=str(notes))).run(folder, output_format="jsonl", id_column="number")
    assert numbers(dataset.take_all()) == Counter(range(40))
    assert (
        "10 rows are new, 20 were known, 10 are gone from the data and keep their answers (or does load_dataset"
        in capsys.readouterr().out
    )


def test_an_id_column_must_be_there_and_unique(ray_cluster, tmp_path):
    with pytest.raises(DatasetError, match="id_column='identity' is not a column.*number, note"):
        RayLLMBatch(echo(), Repeated()).run(tmp_path / "a", id_column="identity")
    with pytest.raises(DatasetError, match="id_column='number' is not unique: "):
        RayLLMBatch(echo(), Repeated()).run(tmp_path / "a", id_column="number")


def test_what_continues_a_folder_needs_one():
    with pytest.raises(ConfigError, match="give output_path="):
        RayLLMBatch(echo(), Repeated()).run(retry_failed=True)


class Letters(ChatWorkloadBase):
    """Rows of a file, by letter; `e` fails unless it is mended."""

    style: str = "plain"
    mended: bool = False
    other: str = ""
    sampling_params: dict = {"max_tokens": 8}

    def parse_row(self, row):
        if row["letter"] == "e" and not self.mended:
            raise ValueError("no e")
        more = "!" if row["letter"] in self.other else ""
        return {"messages": [{"role": "user", "content": f"the letter {row['letter']}{more} for {row['times']} times"}]}


def letters(path, text):
    path.write_text("".join(json.dumps({"letter": c, "times": i}) + "\n" for i, c in enumerate(text)))
    return str(path)


def answers(folder):
    return {row["letter"]: row["generated_text"] for row in rows_in(folder)}


NO_ENGINE = {"start_error": "an engine was started"}


def test_a_workload_that_was_changed_keeps_what_is_asked_the_same(ray_cluster, tmp_path, capsys):
    file, folder = letters(tmp_path / "rows.jsonl", "abcdefgh"), tmp_path / "out"
    RayLLMBatch(echo(), Letters(dataset_file=file)).run(folder)
    first = answers(folder)
    assert first["a"] and first["e"] is None

    # a field that asks nothing else: no engine, and from then on it is this job's
    for said in ("7 are asked the same as before, 0 something else", "8 rows, 1 failed, 7 answered; all were there"):
        RayLLMBatch(echo(**NO_ENGINE), Letters(dataset_file=file, style="bold")).run(folder)
        assert said in capsys.readouterr().out
    # what failed is run with today's code
    RayLLMBatch(echo(), Letters(dataset_file=file, mended=True)).run(folder, retry_failed=True)
    assert (
        answers(folder) == {**first, "e": answers(folder)["e"]} and answers(folder)["e"] and not parts(folder, "failed")
    )

    changed = Letters(dataset_file=file, mended=True, other="bg")
    with pytest.raises(
        OutputError,
        match=r"\(workload.other was .*bg.*of 8 answered rows 6 are asked the same as before, 2 something else.*"
        r'changed="keep".*--changed keep.*changed="redo"',
    ):
        RayLLMBatch(echo(**NO_ENGINE), changed).run(folder)
    second = answers(folder)
    RayLLMBatch(echo(), changed).run(folder, changed="redo")
    third = answers(folder)
    assert (
        len(rows_in(folder)) == 8 and {c for c in third if third[c] != second[c]} == {"b", "g"} and "b!" in third["b"]
    )
    RayLLMBatch(echo(**NO_ENGINE), Letters(dataset_file=file, mended=True, other="c")).run(folder, changed="keep")
    assert answers(folder) == third and "3 something else and keep their answers" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="changed= must be one of 'refuse', 'keep', 'redo'"):
        RayLLMBatch(echo(), changed).run(folder, changed="yes")


class FromFile(Letters):
    """What it asks does not stand in its code."""

    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": f"{Path(self.style).read_text()} {row['letter']}"}]}


def test_a_prompt_that_comes_from_a_file_was_changed(ray_cluster, tmp_path, capsys):
    """The code is the same; the first rows say that other things are asked. What is kept is not asked about again."""
    file, folder, prompt = tmp_path / "rows.jsonl", tmp_path / "out", tmp_path / "prompt.txt"
    prompt.write_text("the letter")
    workload = FromFile(dataset_file=letters(file, "abcd"), style=str(prompt))
    RayLLMBatch(echo(), workload).run(folder)
    first = answers(folder)
    prompt.write_text("another letter")
    letters(file, "abcdef")
    with pytest.raises(
        OutputError,
        match=r"its code is the same, but not what parse_row makes of.*"
        "of 4 answered rows 0 are asked the same as before, 4",
    ):
        RayLLMBatch(echo(**NO_ENGINE), workload).run(folder)
    assert answers(folder) == first
    RayLLMBatch(echo(), workload).run(folder, changed="keep")
    second = answers(folder)
    assert {c: second[c] for c in "abcd"} == first and second["e"].startswith("another")
    letters(file, "abcdefg")
    RayLLMBatch(echo(), workload).run(folder)
    assert {c: text for c, text in answers(folder).items() if c != "g"} == second and len(rows_in(folder)) == 7


def test_a_folder_with_two_answers_of_one_id_is_refused(ray_cluster, tmp_path):
    """cp -r of a folder of the same job, which has some of the rows."""
    folder, other = tmp_path / "out", tmp_path / "other"
    for place, text in ((folder, "abcd"), (other, "bcx")):
        workload = Letters(dataset_file=letters(tmp_path / f"{place.name}.jsonl", text), mended=True)
        RayLLMBatch(echo(), workload).run(place, id_column="letter")
    shutil.copytree(other, folder, dirs_exist_ok=True)
    with pytest.raises(OutputError, match="holds 2 ids of 'letter' more than once"):
        RayLLMBatch(echo(**NO_ENGINE), workload).run(folder, id_column="letter")


@pytest.mark.parametrize("state", ["complete", "unfinished"])
def test_rows_that_are_known_by_an_id_have_other_values(ray_cluster, tmp_path, capsys, state):
    file, folder = tmp_path / "rows.jsonl", tmp_path / "out"
    workload = Letters(dataset_file=letters(file, "abcd"), mended=True)
    RayLLMBatch(echo(), workload).run(folder, id_column="letter")
    first = answers(folder)
    manifest = folder / "_rayllm_batch" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("complete", state))
    letters(file, "bacde")  # a and b another number of times, e is new
    with pytest.raises(
        OutputError,
        match=r"The data is not what it was .*\(rows with the same ids.*"
        "of 4 answered rows 2 are asked the same as before, 2",
    ):
        RayLLMBatch(echo(**NO_ENGINE), workload).run(folder, id_column="letter")
    RayLLMBatch(echo(), workload).run(folder, id_column="letter", changed="redo")
    assert answers(folder).keys() == set("abcde") and len(rows_in(folder)) == 5
    assert "b for 0" in answers(folder)["b"] and {c: answers(folder)[c] for c in "cd"} == {c: first[c] for c in "cd"}
    capsys.readouterr()
    letters(file, "bacdef")
    RayLLMBatch(echo(), workload).run(folder, id_column="letter")
    assert "is not what it was" not in capsys.readouterr().out and len(rows_in(folder)) == 6


def test_further_rows_are_the_same_call(ray_cluster, tmp_path, capsys):
    folder = tmp_path / "out"
    (tmp_path / "days").mkdir()
    workload = Letters(dataset_file=str(tmp_path / "days" / "*.jsonl"), mended=True)
    letters(tmp_path / "days" / "monday.jsonl", "abcd")
    batch = RayLLMBatch(echo(), workload, preserve_order=True)
    batch.run(folder)
    first = answers(folder)
    letters(tmp_path / "days" / "tuesday.jsonl", "efefg")
    capsys.readouterr()
    dataset = batch.run(folder)
    assert "4 rows are in" in (out := capsys.readouterr().out) and "5 rows are new, 4 were known, 0 are gone." in out
    assert [row["letter"] for row in dataset.take_all()] == list("abcdefefg")
    assert {c: text for c, text in answers(folder).items() if c in first} == first

    # rows that are gone keep their answers, after those that are there
    letters(tmp_path / "days" / "monday.jsonl", "ab")
    nothing = RayLLMBatch(echo(**NO_ENGINE), workload, preserve_order=True)
    kept = [row["letter"] for row in nothing.run(folder).take_all()]
    assert kept[:7] == list("abefefg") and sorted(kept[7:]) == ["c", "d"]
    assert "0 rows are new, 7 were known, 2 are gone from the data and keep their answers" in capsys.readouterr().out
    # stopped at the very end, only the manifest does not say that all is there
    manifest = folder / "_rayllm_batch" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("complete", "unfinished"))
    nothing.run(folder)
    assert '"state": "complete"' in manifest.read_text()


def test_a_folder_of_the_version_before_is_continued(ray_cluster, tmp_path, capsys):
    """Made by the version without digests: a to f, of which e failed."""
    folder = tmp_path / "out"
    shutil.copytree("tests/data/folder-format-1", folder)
    before = answers(folder)
    file = letters(tmp_path / "rows.jsonl", "abcdefgh")
    RayLLMBatch(echo(), Letters(dataset_file=file, mended=True)).run(folder, retry_failed=True)
    assert "What was asked for 5 answers is not known" in capsys.readouterr().out
    after = answers(folder)
    assert (
        sorted(after) == list("abcdefgh")
        and all(after.values())
        and {c: after[c] for c in "abcdf"} == {c: before[c] for c in "abcdf"}
    )
    with pytest.raises(OutputError, match="of 8 answered rows 2 are asked the same as before, 1 something else"):
        RayLLMBatch(echo(), Letters(dataset_file=file, mended=True, other="ah")).run(folder)
