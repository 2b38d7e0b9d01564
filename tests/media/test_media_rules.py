"""What a workload may allow of its rows' media."""

from __future__ import annotations

import pickle
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch.errors import WorkloadError
from rayllm_batch.media.address import is_forbidden, is_public
from rayllm_batch.media.host_rule import HostRule
from rayllm_batch.media.rules import MediaRules


@pytest.mark.parametrize(
    ("entry", "name", "network", "port"),
    [
        ("images.example.org", "images.example.org", None, None),
        ("Images.Example.ORG.", "images.example.org", None, None),
        ("images.example.org:8443", "images.example.org", None, 8443),
        ("*.example.org", "*.example.org", None, None),
        ("*", "*", None, None),
        ("bücher.example", "xn--bcher-kva.example", None, None),
        ("minio", "minio", None, None),
        ("my_bucket.s3.local", "my_bucket.s3.local", None, None),
        ("10.0.0.5:8000", "", "10.0.0.5/32", 8000),
        ("10.0.0.0/8", "", "10.0.0.0/8", None),
        ("fd12::5", "", "fd12::5/128", None),
        ("[fd12::5]:8000", "", "fd12::5/128", 8000),
        ("fd12::/16", "", "fd12::/16", None),
    ],
)
def test_hosts(entry: str, name: str, network: str | None, port: int | None) -> None:
    assert MediaRules(hosts=[entry]).hosts == (entry,)  # type: ignore[arg-type]
    found = HostRule.of(entry)
    assert (found.name, found.network and str(found.network), found.port) == (name, network, port)


@pytest.mark.parametrize(
    "hosts",
    [
        "images.example.org",
        None,
        [3],
        [""],
        ["https://images.example.org"],
        ["user:hush@example.org"],
        ["https://user:hush@example.org/"],
        ["example.org/path"],
        ["example.org:"],
        ["example.org:99999"],
        ["example.org:http"],
        ["*example.org"],
        ["a.*.org"],
        ["*.*"],
        ["exa mple.org"],
        ["10.0.0.5/8"],
        ["10.0.0"],
        ["0x7f.1"],
        ["0.0.0.0/0"],
        ["::/0"],
        ["169.254.169.254"],
        ["[::1"],
        ["[::1]8000"],
    ],
)
def test_hosts_that_are_none(hosts: Any) -> None:
    with pytest.raises(WorkloadError, match="^media_hosts") as raised:
        MediaRules(hosts=hosts)
    assert "hush" not in str(raised.value)


def test_a_folder_is_absolute_and_not_the_whole_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert MediaRules(folder="media").folder == str(tmp_path / "media")
    assert MediaRules(folder=tmp_path).folder == str(tmp_path)  # type: ignore[arg-type]
    for folder in ("/", "//", "/..", "", 3, "s3://bucket/media", "a\0b"):
        with pytest.raises(WorkloadError, match="^media_folder"):
            MediaRules(folder=folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", ["max_bytes", "max_pixels", "max_seconds", "timeout_s"])
def test_bounds(bound: str) -> None:
    """An error has the name of the workload's field."""
    field = {"timeout_s": "media_timeout_s"}.get(bound, bound.replace("max_", "max_media_"))
    for value in (0, -1, "5", None, True, float("nan"), float("inf"), 1e18, 10**12):
        with pytest.raises(WorkloadError, match=f"^{field} must be"):
            MediaRules(**{bound: value})
    MediaRules(**{bound: 100})


def test_they_travel() -> None:
    rules = MediaRules(hosts=("a.example",), timeout_s=3)
    assert pickle.loads(pickle.dumps(rules)) == rules


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(text: str) -> None:
    assert is_public(ip_address(text))


def test_a_named_network_does_not_open_metadata_services() -> None:
    assert is_forbidden(ip_address("fd00:ec2::254")) and is_forbidden(ip_address("100.100.100.200"))
    assert not is_forbidden(ip_address("fd00::1")) and not is_forbidden(ip_address("100.64.0.1"))
    assert not is_forbidden(ip_address("127.0.0.1")) and not is_forbidden(ip_address("::1"))
