"""A folder of answers, pushed to a loopback Hub by the real client, broken on the way, fetched back, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hub_server import CUT, HubServer
from test_folder import JOB, NAMES, begun, finished, opened, store

from rayllm_batch import init_engine_from_config
from rayllm_batch.errors import (
    HubUnavailableError,
    InvalidTokenError,
    ModelAccessError,
    OutputError,
    TokenRequiredError,
)
from rayllm_batch.model import hub_client
from rayllm_batch.output import dataset_card, hub_folder
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.hub_folder import HubFolder, HubPlace, files_of, replaced_in

HERE = "hf://datasets/alice/answers"
OTHER = Job({"model_id": "org/another"})


@pytest.fixture
def alice(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    # Else it repeats what fails for half a minute.
    for module in ("lfs", "_commit_api"):
        monkeypatch.setattr(f"huggingface_hub.{module}.http_backoff", _once)
    monkeypatch.setattr(hub_client, "SERVER_ERROR_RETRIES", 0)


def _once(method: str, url: str, **more: Any) -> Any:
    from huggingface_hub.utils import get_session

    content = more.pop("data", None)
    return get_session().request(method, url, **({} if content is None else {"content": content}), **more)


def push(path: Path, given: str = HERE, job: Job = JOB, **how: Any) -> str:
    config = init_engine_from_config("configs/demo-cpu.yaml")
    with opened(path, job=job) as folder:
        told = dataset_card.told(config, job, folder.rows, folder.failed_rows)
        schema = None if folder.alike else folder.schema
        how = {"replaced": replaced_in(folder), **how}
        return HubFolder(given).push(files_of(folder), job, told, schema, where=folder.given, **how)


def test_what_names_no_place_is_refused_before_anybody_is_asked(isolated: Path, hub: HubServer) -> None:
    for given, said in {
        "hf://alice/answers": "go into a dataset",
        "hf://datasets/answers": "go into a dataset",
        "hf://buckets/alice/answers": "go into a dataset",
        "hf://datasets/alice/an swers": "no name of a dataset",
        "hf://datasets/alice/answers..x": "no name of a dataset",
        "hf://datasets/alice/answers@" + "0" * 40: "is a commit",
        "hf://datasets/alice/answers/../b": "cannot be a folder",
        "hf://datasets/alice/answers/a//b": "cannot be a folder",
        "hf://datasets/alice/answers/part-*": "cannot be a folder",
        "hf://datasets/alice/answers/_rayllm_batch": "cannot be a folder",
        "hf://datasets/alice/answers/.git": "cannot be a folder",
        "hf://datasets/alice/answers/a-->b": "cannot be a folder",
    }.items():
        with pytest.raises(OutputError, match=said):
            HubFolder(given, "hf_alice")
    with pytest.raises(TokenRequiredError, match=r"needs a Hugging Face token.*HF_TOKEN"):
        HubFolder(HERE)
    assert not hub.requests


def test_places_have_folders_of_their_own(isolated: Path) -> None:
    places = [
        HERE,
        f"{HERE}@try",
        f"{HERE}/try",
        f"{HERE}@a%2Fb",
        f"{HERE}@a/b",
        f"{HERE}@refs/pr/1",
        "hf://datasets/alice/x",
    ]
    found = [HubPlace.of(given) for given in places]
    assert len({place.work_folder() for place in found}) == len(places)
    assert all(place.work_folder().parent == isolated / "rayllm_batch" for place in found)
    assert [str(place) for place in found[:3]] == places[:3] and HubPlace.of("alice/answers") == found[0]
    assert found[3].branch == "a/b" and found[5].branch == "refs/pr/1"


def test_who_may_not_write_is_told_in_one_sentence(alice: None, hub: HubServer, tmp_path: Path) -> None:
    hub.reading_tokens.add("hf_bob")
    hub.add("datasets", "bob/his", {})
    for given, token, kind, said in (
        (HERE, "hf_wrong", InvalidTokenError, "does not accept the token given"),
        (HERE, "hf_bob", ModelAccessError, "under 'alice' it cannot make one. It can under bob."),
        ("alcie/answers", "hf_alice", ModelAccessError, "under 'alcie' it cannot make one. It can under alice."),
        ("bob/new", "hf_bob", ModelAccessError, "it may only read"),
        ("bob/his", "hf_alice", ModelAccessError, "may not write to the dataset bob/his"),
    ):
        with pytest.raises(kind, match=said.replace("(", ".")) as raised:
            HubFolder(given, token, tmp_path / "work").begin(JOB)
        assert token not in str(raised.value) + repr(raised.value) and raised.value.__cause__ is None
    assert not hub.asked("create", "POST") and not (tmp_path / "work").exists()


def test_a_folder_becomes_a_private_dataset_that_the_datasets_library_loads(
    alice: None, hub: HubServer, hub_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = push(begun(tmp_path / "answers", "complete"))
    repo = hub.repos["datasets", "alice/answers"]
    assert page == f"{hub.url}/datasets/alice/answers" and repo.private and repo.commits == ["Answers of rayllm_batch"]
    assert {*NAMES, "_rayllm_batch/manifest.json", f"_rayllm_batch/rows/{NAMES[0]}.ids", "README.md"} <= set(repo.files)
    assert not any("lock" in name or "metrics" in name for name in repo.files)
    card = repo.files["README.md"].decode()
    for row in (
        "| model | org/model |",
        "| rows | 7 |",
        "| rows with an error | 2 |",
        "| task | generate |",
        "| Ray | 2.",
    ):
        assert row in card
    assert "license" not in card and "hf_" not in card

    # The same again sends nothing; what people write into the card stays.
    repo.files["README.md"] = card.replace("tags:", "license: mit\ntags:").replace("# Answers", "# My answers").encode()
    uploads = hub.asked("/upload/", "PUT")
    push(tmp_path / "answers")
    assert hub.asked("/upload/", "PUT") == uploads == 3
    card = repo.files["README.md"].decode()
    assert "license: mit" in card and "# My answers" in card and card.count("<!-- rayllm_batch") == 1
    again = list(repo.commits)
    push(tmp_path / "answers")
    assert repo.commits == again, "nothing has changed, and there is no commit"

    # Another folder of it is another configuration.
    push(begun(tmp_path / "more"), f"{HERE}/more", private=False)
    code = """
import datasets
for name in ("default", "more"):
    rows = datasets.load_dataset("alice/answers", name, split="train")
    print(sorted(rows["a"]))
"""
    env = {**hub_env, "HF_TOKEN": "hf_alice"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "[1, 2, 3, 4, 5, 6, 6]\n" * 2, done.stderr[-3000:]


def test_parts_whose_types_grew_are_loaded_as_one(
    alice: None, hub: HubServer, hub_env: dict[str, str], tmp_path: Path
) -> None:
    from rayllm_batch.data.row_id import row_id
    from rayllm_batch.output.part_file import encoded

    with opened(tmp_path / "answers") as folder:
        for name, kind, value in zip(NAMES[::2], (pa.null(), pa.large_string()), (None, "text"), strict=True):
            table = pa.table({"a": pa.array([value], kind), "n": [[1]]})
            folder.store(name, encoded(table, "parquet"), row_id({"a": value}))
    push(tmp_path / "answers")
    code = 'import datasets; print(datasets.load_dataset("alice/answers", split="train")[:])'
    env = {**hub_env, "HF_TOKEN": "hf_alice"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "{'a': [None, 'text'], 'n': [[1], [1]]}\n", done.stderr[-3000:]


def test_a_push_that_fails_half_way_goes_on(
    alice: None, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(tmp_path / "answers", "complete")
    monkeypatch.setattr(hub_folder, "COMMIT_FILES", 3)  # three commits
    for fault, times, status in (
        ("PUT /upload/", None, 500),
        ("POST /api/datasets/alice/answers/commit", None, 503),
        ("POST /api/datasets/alice/answers/preupload", None, CUT),
        ("POST /api/datasets/alice/answers/commit", None, 412),
    ):
        hub.faults.clear()
        hub.fail(fault, status, times=times)
        with pytest.raises(OutputError, match=r"could not be pushed to hf://.*Nothing is lost.*it continues") as raised:
            push(path)
        assert "hf_alice" not in str(raised.value) and raised.value.__cause__ is None
    hub.faults.clear()
    sent = hub.asked("/upload/", "PUT")
    push(path)
    repo = hub.repos["datasets", "alice/answers"]
    assert repo.commits == [*(f"Answers of rayllm_batch ({i} of 3)" for i in (1, 2)), "Answers of rayllm_batch"]
    assert set(NAMES) <= set(repo.files) and hub.asked("/upload/", "PUT") <= sent + 3

    # A commit was cut: the next push goes on from what is there, and the dataset is whole only with its card.
    hub.repos.clear()
    original, calls = HubFolder._commit, []

    def fails_second(self: HubFolder, api: Any, **given: Any) -> str:
        calls.append(given["title"])
        if len(calls) == 2:
            raise ConnectionError("cut")
        return original(self, api, **given)

    monkeypatch.setattr(HubFolder, "_commit", fails_second)
    with pytest.raises(OutputError, match="Nothing is lost"):
        push(path)
    repo = hub.repos["datasets", "alice/answers"]
    assert "README.md" not in repo.files and "_rayllm_batch/manifest.json" in repo.files
    push(path)
    assert "README.md" in repo.files and set(NAMES) <= set(repo.files)


def test_rows_that_were_run_again_take_the_place_of_others(alice: None, hub: HubServer, tmp_path: Path) -> None:
    path = begun(tmp_path / "answers", "complete")
    push(path)
    with opened(path) as folder:
        folder.run_again(failed=True)
        store(folder, "part-000004-bbbbbbbb.parquet", [4, 5])
        folder.write_manifest("complete")
    push(path)
    names = {name for name in hub.repos["datasets", "alice/answers"].files if name.endswith(".parquet")}
    assert names == {NAMES[0], NAMES[2], "part-000004-bbbbbbbb.parquet"}
    assert b"failed-" not in hub.repos["datasets", "alice/answers"].files["README.md"]


def test_answers_that_only_the_hub_has_stay(alice: None, hub: HubServer, tmp_path: Path) -> None:
    """As of a job that was run on two machines: neither takes the other's rows away."""
    push(begun(tmp_path / "answers", "complete"))
    files = dict(hub.repos["datasets", "alice/answers"].files)
    with opened(tmp_path / "other") as folder:
        store(folder, "part-000001-cccccccc.parquet", [1])
    for attempt in (lambda: push(tmp_path / "other"), lambda: HubFolder(HERE, folder=tmp_path / "other").begin(JOB)):
        with pytest.raises(
            OutputError, match=r"answers of this job that are not in .*other \(failed-000002.*work_folder="
        ):
            attempt()
    assert hub.repos["datasets", "alice/answers"].files == files
    HubFolder(HERE, folder=tmp_path / "third").begin(JOB)
    push(tmp_path / "other", overwrite=True)
    assert NAMES[0] not in hub.repos["datasets", "alice/answers"].files


def test_what_is_somebody_elses_stays(alice: None, hub: HubServer, tmp_path: Path) -> None:
    path = begun(tmp_path / "answers", "complete")
    repo = hub.add("datasets", "alice/answers", {"train.csv": b"a\n1\n", "README.md": b"Mine."})
    for attempt in (
        lambda: push(path),
        lambda: HubFolder(HERE).begin(JOB),
        lambda: HubFolder(HERE).begin(JOB, make=False),
    ):
        with pytest.raises(OutputError, match=r"holds other files \(train.csv\).*overwrite=True"):
            attempt()
    assert set(repo.files) == {"train.csv", "README.md"}
    push(path, f"{HERE}/run-1")
    assert "train.csv" in repo.files and f"run-1/{NAMES[0]}" in repo.files
    push(path, overwrite=True)
    assert "train.csv" not in repo.files and repo.files["README.md"].decode().count("Mine.") == 1
    with pytest.raises(OutputError, match=r"holds answers of another job"):
        HubFolder(HERE).begin(OTHER)
    repo.files["README.md"] = b"---\n[: no\n---\n"
    with pytest.raises(OutputError, match="metadata that is no YAML"):
        HubFolder(HERE).begin(JOB)


def test_the_folder_comes_back_on_another_machine(
    alice: None, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (HERE, f"{HERE}@try/run-1"):
        push(begun(tmp_path / "answers", "complete"), given)
        other = HubFolder(given, folder=tmp_path / "elsewhere" / given.rpartition("/")[2])
        hub.fail(
            f"resolve/{hub.repos['datasets', 'alice/answers'].at(other.place.branch).sha}/{other.place.inside(NAMES[2])}",
            403,
        )  # the fetch breaks, and nothing half of it counts
        with pytest.raises(ModelAccessError):
            other.begin(JOB)
        assert not other.folder.exists()
        hub.faults.clear()
        other.begin(JOB)
        with opened(other.folder) as folder:
            assert finished(folder) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2} and folder.complete
        before = hub.asked("resolve")
        other.begin(JOB)  # with rows in it, it is the newer one
        assert hub.asked("resolve") - before == 2, "its manifest and card are looked at"
        assert not other.folder.with_name(f"{other.folder.name}.fetched").exists()
    assert "main" not in hub.repos["datasets", "alice/answers"].branches
    files = hub.repos["datasets", "alice/answers"].branches["try"].files
    assert f"run-1/{NAMES[0]}" in files


def test_what_was_pushed_from_memory_is_not_continued(alice: None, hub: HubServer, tmp_path: Path) -> None:
    class Answers:
        @staticmethod
        def iter_batches(**_: Any) -> Any:
            yield from [pa.table({"a": [1, 2], "s": [{}, {}]}), pa.table({"a": [3], "s": [{}]})]

    told = dataset_card.told(init_engine_from_config("configs/demo-cpu.yaml"), JOB, 3, 0)
    names = []
    for number in range(2):
        root = tmp_path / str(number)
        root.mkdir()
        files, as_text, rows = hub_folder.write_shards(Answers(), root, JOB, 0)  # type: ignore[arg-type]
        assert rows == 3 and as_text == ("s",)
        HubFolder(HERE).push(files, JOB, told, where="memory")
        names.append(sorted(files))
    assert names[0] == names[1] and hub.asked("/upload/", "PUT") == 1, "the same rows have the same name"
    assert json.loads(hub.repos["datasets", "alice/answers"].files["_rayllm_batch/manifest.json"])["rows"] == 3
    with pytest.raises(OutputError, match="from a run in memory"):
        HubFolder(HERE, folder=tmp_path / "work").begin(JOB)


def test_a_hub_that_falls_silent_ends_the_wait(
    alice: None, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(tmp_path / "answers")
    push(path)
    monkeypatch.setattr(hub_folder, "LIST_SECONDS", 0.2)
    hub.fail("tree", 0)
    with pytest.raises(OutputError, match="fell silent"):
        push(path)
    with pytest.raises(HubUnavailableError, match="fell silent"):
        HubFolder(HERE).begin(JOB)


def test_a_public_dataset_is_told(
    alice: None, hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("datasets", "alice/answers", {})
    HubFolder(HERE, folder=tmp_path / "work").begin(JOB)
    assert "is public: everyone can read" in caplog.text


def test_a_file_of_results_goes_to_the_hub(alice: None, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfFileSystem

    from rayllm_batch.workload.openai_results import _File

    HfFileSystem.clear_instance_cache()
    repo = hub.add("datasets", "alice/results", {"kept.txt": b"kept"})
    with _File("hf://datasets/alice/results/results.jsonl") as file:
        file.write("{}\n")
        file.commit()
    assert repo.files == {"kept.txt": b"kept", "results.jsonl": b"{}\n"}
    with pytest.raises(OSError), _File("hf://datasets/bob/results/results.jsonl") as file:  # noqa: PT011, PT012
        file.commit()
