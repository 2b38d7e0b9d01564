"""The engines' logs, where they are and what comes into them."""

from __future__ import annotations

import os
from collections.abc import Callable

from rayllm_batch.measures.snapshot import Snapshot

RAYS_OWN_MARKS = (":actor_name:", ":task_name:", ":job_id:")
AT_ONCE = 1 << 20  # bytes


class EngineLogs:
    """An observer of the run. Says each new line of the logs on this node, and once how to read another node's."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._read: dict[str, int] = {}  # bytes, of each replica's log
        self._elsewhere: set[str] = set()

    def observe(self, snapshot: Snapshot) -> None:
        for key, replica in snapshot.replicas.items():
            if replica.log:
                self._follow(key, replica.log, replica.node)

    def _follow(self, key: str, log: str, node: str) -> None:
        try:
            with open(log, "rb") as file:  # the name is unique, so a file of this name is on this node, or is shared
                file.seek(self._read.get(key, 0))
                # Up to the end of a line: the rest is still to come.
                new = file.read(AT_ONCE)
        except OSError:
            if key not in self._elsewhere:
                self._elsewhere.add(key)
                how = f"ray logs cluster {os.path.basename(log)} --node-ip {node} --follow"
                self._say(f"({key}) its log is on another node: {how}")
            return
        whole = new if len(new) == AT_ONCE else new[: new.rfind(b"\n") + 1]
        self._read[key] = self._read.get(key, 0) + len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            if line.strip() and not line.startswith(RAYS_OWN_MARKS):
                self._say(f"({key}) {line}")
