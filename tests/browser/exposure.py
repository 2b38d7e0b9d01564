"""Where other people, or a later reader, could see a secret of a run: files, and what Ray tells everyone who asks."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable
from pathlib import Path

# What the dashboard's pages and `ray list ... --detail` are made of.
RAY_API = [
    *(f"/api/v0/{kind}?detail=true&limit=10000" for kind in ("actors", "tasks", "jobs", "workers", "nodes", "objects")),
    "/api/v0/runtime_envs?detail=true",
    "/api/v0/placement_groups?detail=true",
    "/api/v0/tasks/timeline",
    "/api/v0/cluster_metadata",
    "/api/jobs/",
    "/logical/actors",
    "/nodes?view=summary",
    "/events",
]


def ray_api(dashboard: str) -> dict[str, str]:
    """What the API of Ray's dashboard answers now, by its path."""
    paths = list(RAY_API)
    with urllib.request.urlopen(f"{dashboard}/api/v0/jobs?detail=true", timeout=60) as answer:
        jobs = json.load(answer)["data"]["result"]["result"]
    paths += [f"/api/data/datasets/{job['job_id']}" for job in jobs if job["job_id"]]
    with urllib.request.urlopen(f"{dashboard}/nodes?view=summary", timeout=60) as answer:
        nodes = json.load(answer)["data"]["summary"]
    paths += [f"/nodes/{node['raylet']['nodeId']}" for node in nodes]  # its workers, with their command lines
    answers = {}
    for path in paths:
        with urllib.request.urlopen(dashboard + path, timeout=60) as answer:
            answers[path] = answer.read().decode()
    return answers


def files(folder: Path) -> dict[str, str]:
    """The text of every file below `folder`, bytes that are no text included, by its path."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path): path.read_bytes().decode("utf-8", errors="surrogateescape") for path in found}


def places_with(secrets: Iterable[str], texts: dict[str, str]) -> list[str]:
    """The places whose text holds one of the secrets."""
    return sorted(place for place, text in texts.items() if any(secret in text for secret in secrets))
