"""What the user sees while a run goes on: how far it is, the engine's resolved settings once, where the logs are."""

from __future__ import annotations

import time
from typing import Any, Optional

from rayllm_batch.cluster import connection
from rayllm_batch.measures.rates import Rates
from rayllm_batch.measures.row_stats import Counts
from rayllm_batch.measures.snapshot import Snapshot
from rayllm_batch.show.engine_logs import EngineLogs
from rayllm_batch.show.status import final_status, status
from rayllm_batch.show.status_view import View, choose_view


class Progress:
    """An observer of the run, and a context manager around it.

    to_folder: rows are written to an output folder as they come.
    verbose:   the engines' logs come to the screen, and the status as lines between theirs.
    """

    def __init__(
        self,
        num_replicas: int,
        total_rows: Optional[int],
        to_folder: bool = False,
        verbose: bool = False,
        view: Optional[View] = None,
    ) -> None:
        self._num_replicas, self._total_rows, self._to_folder = num_replicas, total_rows, to_folder
        self._view = view or choose_view(only_lines=verbose)
        self._logs = EngineLogs(self.say) if verbose else None
        self._began, self._rates = time.monotonic(), Rates()
        self._settings_shown = self._place_shown = False
        self._notes_shown = 0
        self._last: Optional[Snapshot] = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_: Any) -> None:
        if kind is not None and issubclass(kind, Exception) and not self._place_shown:
            self.say(f"Ray's logs: {connection.logs_folder()}")
        last = self._last if kind is None else None
        self._view.close(final_status(last, self._total_rows, self._elapsed_s()) if last else None)

    def observe(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        self._show_place(snapshot)
        if self._logs is not None:
            self._logs.observe(snapshot)
        for note in snapshot.notes[self._notes_shown :]:
            self._notes_shown += 1
            self.say(note)
        self._show_settings(snapshot)
        if self._settings_shown:
            self._rates.add(time.monotonic(), Counts.total(snapshot.replicas.values()))
        run = self._num_replicas, self._total_rows, self._rates, self._elapsed_s()
        self._view.show(status(snapshot, *run, to_folder=self._to_folder))

    def say(self, text: str) -> None:
        """A line that stays, above the one that changes."""
        self._view.say(text)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _show_place(self, snapshot: Snapshot) -> None:
        """Once, when the first engine starts, so that it is there when that one fails."""
        for key, replica in snapshot.replicas.items():
            if not self._place_shown and replica.log and not replica.kept:
                self._place_shown = True
                place = replica.log.replace(f"-{key}.log", "-*.log")
                self.say(f"Engine logs: {place}, on the node of each; Ray's own are beside them.")

    def _show_settings(self, snapshot: Snapshot) -> None:
        replica = next((replica for replica in snapshot.replicas.values() if replica.settings), None)
        if replica and not self._settings_shown:
            self._settings_shown = True
            when = ", kept from before" if replica.kept else f" in {replica.start_s:.0f} s"
            text = ", ".join(f"{key}={value}" for key, value in replica.settings.items())
            self.say(f"Engine ready{when}: {text}")
