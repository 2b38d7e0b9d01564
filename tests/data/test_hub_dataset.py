"""`hf://datasets/...` as dataset_file: files, splits and revisions of a loopback Hub, and what is not there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hub_server import HubServer, Repo

from rayllm_batch.data.data_files import find_files
from rayllm_batch.data.file_part import Reader, whole
from rayllm_batch.data.read_options import ReadOptions
from rayllm_batch.errors import DatasetError


def parquet(*values: int) -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(pa.table({"n": values}), file)
    return file.getvalue()


@pytest.fixture
def news(hub: HubServer, isolated: Path) -> Iterator[Repo]:
    """As abisee/cnn_dailymail is laid out."""
    names = [f"{config}/{split}-00000-of-00001" for config in ("1.0.0", "3.0.0") for split in ("test", "train")]
    files = {f"{name}.parquet": parquet(i) for i, name in enumerate(names)}
    yield hub.add("datasets", "org/news", {"README.md": b"", **files})
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()  # they remember a repository's revisions


def numbers(given: str) -> list[Any]:
    """As the tasks of a run read them, here."""
    files = find_files(given)
    reader = Reader(files.fs, files.format, ReadOptions())
    return [n for path in files.paths for table in reader.tables(whole(files, path)) for n in table["n"].to_pylist()]


def test_files_of_a_split(news: Repo, hub: HubServer) -> None:
    assert numbers("hf://datasets/org/news/3.0.0/test-*.parquet") == [2]
    assert numbers("hf://datasets/org/news/*/train-*.parquet") == [1, 3]
    assert numbers("hf://datasets/org/news/1.0.0/train-00000-of-00001.parquet") == [1]
    news.branches["v2"] = Repo("datasets", "org/news", {"data/test.parquet": parquet(8)})
    assert numbers("hf://datasets/org/news@v2") == [8]
    assert numbers(f"hf://datasets/org/news@{news.sha}/3.0.0/test-*.parquet") == [2]


def test_all_splits_as_one_table_are_refused_with_the_way(news: Repo) -> None:
    with pytest.raises(DatasetError) as raised:
        find_files("hf://datasets/org/news")
    assert "has several splits (test, train)" in str(raised.value)
    glob = str(raised.value).rpartition("one: ")[2].rstrip(".")
    assert glob == "hf://datasets/org/news/3.0.0/train-*.parquet" and numbers(glob) == [3]
    news.files = {"data/train/a.parquet": parquet(1), "data/test/a.parquet": parquet(2)}
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    with pytest.raises(DatasetError, match=r"splits \(test, train\).*: hf://datasets/org/news/data/train\.$"):
        find_files("hf://datasets/org/news/")
    assert numbers("hf://datasets/org/news/data/train") == [1]
    news.files = {"contest-1.parquet": parquet(1), "latest.parquet": parquet(2)}
    HfFileSystem.clear_instance_cache()
    assert numbers("hf://datasets/org/news") == [1, 2]


def test_what_is_not_there(news: Repo, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets", "org/secret", {"a.parquet": parquet(1)}, private=True, readers={"alice"})
    for given in (
        "hf://datasets/org/new",
        "hf://datasets/org/secret",
        "hf://datasets/org/news@v9/3.0.0",
        "hf://datasets/org/news/3.0.0/dev-*",
        "hf://nonsense",
    ):
        with pytest.raises(DatasetError, match=f"dataset_file '{given.replace('*', '.')}'"):
            find_files(given)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert numbers("hf://datasets/org/secret") == [1]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    with pytest.raises(DatasetError) as raised:
        find_files("hf://datasets/org/secret")
    assert "hf_wrong" not in str(raised.value) and raised.value.__cause__ is None
