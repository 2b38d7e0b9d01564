"""What a run's report is made of, as plain data: an output folder keeps it, and the page can be made later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Optional

from rayllm_batch.measures.history import History, Point
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.measures.row_stats import RowStats

Table = list[tuple[str, str]]


@dataclass
class RunReport:
    """settings: tables by their headings. engines, at_once: see `verdict`."""

    title: str
    metrics: RunMetrics
    history: History
    stats: RowStats
    settings: dict[str, Table]
    engines: str
    at_once: str = "max_num_seqs"

    def to_json(self) -> bytes:
        """Some 100 KB after a long run: the points of its history are columns."""
        history, names = self.history, [field.name for field in fields(Point)]
        told = {
            "began": history.began,
            "phases": history.phases,
            "ended": history.ended,
            "points": {name: [_short(getattr(point, name)) for point in history.points] for name in names},
        }
        values = {**vars(self), "metrics": asdict(self.metrics), "stats": self.stats.plain(), "history": told}
        return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")  # an answer cut between surrogates

    @classmethod
    def from_json(cls, content: bytes) -> RunReport:
        """Raises ValueError for what `to_json` did not write: a file of a later version, or one that was edited."""
        try:
            values = json.loads(content)
            told = values.pop("history")
            columns = told["points"]
            rows = zip(*columns.values(), strict=True)
            points = [_read(Point, dict(zip(columns, row, strict=True))) for row in rows]
            history = History.of(_read(float, told["began"]), _read(dict[str, float], told["phases"]), points)
            history.ended = _read(Optional[str], told["ended"])
            return cls(
                title=_read(str, values["title"]),
                metrics=_read(RunMetrics, values["metrics"]),
                history=history,
                stats=_read(RowStats, values["stats"]),
                settings=_read(dict[str, Table], values["settings"]),
                engines=_read(str, values["engines"]),
                at_once=_read(str, values["at_once"]),
            )
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def metrics_of(content: bytes) -> RunMetrics:
    """Of a metrics.json, which has more than the fields; raises ValueError likewise."""
    values = _read(dict[str, Any], json.loads(content))
    return _read(RunMetrics, {field.name: values[field.name] for field in fields(RunMetrics) if field.name in values})


def _read(kind: Any, value: Any) -> Any:
    from pydantic import TypeAdapter  # whose ValidationError is a ValueError

    return TypeAdapter(kind).validate_python(value)


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
