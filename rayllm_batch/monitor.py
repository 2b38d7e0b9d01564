"""One small actor a run: the replicas tell it how they are, the driver asks it."""

from __future__ import annotations

import time
from typing import Any, Optional

MAX_DEATHS_WITHOUT_PROGRESS = 3


class RunMonitor:
    """Runs as a Ray actor beside the driver, without CPUs of its own.

    Each replica process has a key of its own, so a restarted replica is a new entry. Counts are of answered rows; a
    row whose replica died before its block was out is answered, and counted, again.

    env_vars: the engines' environment. It may hold the Hugging Face token, which a runtime_env would show on the
    dashboard; here it is in one process's memory, and the tasks that need it ask.
    """

    def __init__(self, env_vars: dict[str, str]) -> None:
        self._env_vars = env_vars
        self._replicas: dict[str, dict[str, Any]] = {}
        self._actors: dict[str, Any] = {}
        self._deaths = 0
        self._rows_at_death = 0
        self._failure: Optional[str] = None

    def register(self, key: str, actor: Any, info: dict[str, Any]) -> Optional[str]:
        """A replica begins to start. Returns a reason when it should not: the engine has died too often."""
        self._replicas[key] = {"state": "starting", "since": time.time(), "rows": 0, **info}
        self._actors[key] = actor
        if self._deaths >= MAX_DEATHS_WITHOUT_PROGRESS:
            return self._failure
        return None

    def environment(self) -> dict[str, str]:
        return self._env_vars

    def update(self, key: str, values: dict[str, Any]) -> None:
        self._replicas.setdefault(key, {}).update(values)

    def failed(self, key: str, message: str) -> None:
        """An engine that did not start. The message reaches the user."""
        self.update(key, {"state": "failed"})
        self._failure = message

    def died(self, key: str, message: str) -> None:
        """An engine that died with rows in flight. Progress since the last death resets the count."""
        self.update(key, {"state": "dead"})
        rows = sum(replica.get("rows", 0) for replica in self._replicas.values())
        self._deaths = 1 if rows > self._rows_at_death else self._deaths + 1
        self._rows_at_death = rows
        self._failure = f"The engine died {self._deaths} time(s) on the same rows. Its last words:\n{message}"

    def snapshot(self) -> dict[str, Any]:
        return {"replicas": self._replicas, "failure": self._failure, "deaths": self._deaths}

    def actors(self) -> list[Any]:
        return list(self._actors.values())
