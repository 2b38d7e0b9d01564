"""A replica's lives: each process that it had is an entry of its own in what the monitor knows."""

from __future__ import annotations

from typing import Any


def lives(replicas: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The monitor's entries by replica, the earliest first. A replica's actor keeps its id when Ray starts it again."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, life in replicas.items():
        found.setdefault(life.get("actor_id", key), []).append(life)
    return found
