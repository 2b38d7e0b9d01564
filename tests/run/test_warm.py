"""Which engines a call finds running, and when they are ended; Ray's actors are stood in for by plain objects."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.run import warm

CONFIG = init_engine_from_config("configs/demo-cpu.yaml")
OTHER = init_engine_from_config("configs/demo-cpu.yaml", override={"engine_kwargs": {"max_num_seqs": 4}})


class Engines(warm.WarmEngines):
    def __init__(self, config: Any = CONFIG, fits: bool = True) -> None:
        super().__init__(config, 8, None, ["a host"], "01000000")
        object.__setattr__(self, "fits", fits)
        object.__setattr__(self, "ended", 0)

    def fit(self, *asked: Any) -> bool:
        return self.fits

    def end(self) -> None:
        object.__setattr__(self, "ended", self.ended + 1)


@pytest.fixture(autouse=True)
def nothing_kept() -> Any:
    warm._let_go()
    yield
    warm._let_go()


def test_kept_engines_are_taken_once() -> None:
    engines = Engines()
    warm.keep(engines)
    assert warm.take(CONFIG, 1, 8) is engines
    assert warm.take(CONFIG, 1, 8) is None and engines.ended == 0


def test_engines_that_do_not_fit_are_ended() -> None:
    engines = Engines(fits=False)
    warm.keep(engines)
    assert warm.take(OTHER, 1, 8) is None and engines.ended == 1
    warm.release()
    assert engines.ended == 1


def test_they_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "KEEP_S", 0.05)
    engines = Engines()
    warm.keep(engines)
    deadline = time.monotonic() + 10
    while not engines.ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engines.ended == 1 and warm.take(CONFIG, 1, 8) is None


def test_a_second_keep_starts_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines()
    warm.keep(engines)
    first = warm._timer
    warm.keep(warm.take(CONFIG, 1, 8))
    first.join(10)
    assert first.finished.is_set() and engines.ended == 0 and warm._kept is engines and warm._timer is not first


class Monitor:
    """As an actor's handle, of which only `snapshot` is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.snapshot = self

    def remote(self) -> Monitor:
        return self


@pytest.mark.parametrize(
    ("run", "fits"),
    [
        ({}, True),
        ({"in_flight": 4}, True),
        ({"config": OTHER}, False),
        ({"replicas": 1}, False),
        ({"in_flight": 9}, False),
        ({"ray_job": "02"}, False),
        ({"monitor": Monitor(RuntimeError("its node is gone"))}, False),
    ],
    ids=["same", "smaller job", "other config", "other replicas", "more blocks at once", "other Ray", "dead monitor"],
)
def test_what_fits(run: dict[str, Any], fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def get(monitor: Monitor, timeout: float) -> dict[str, Any]:
        if monitor.error:
            raise monitor.error
        return {"replicas": {}}

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(warm, "_ray_job", lambda: run.get("ray_job", "01"))
    engines = warm.WarmEngines(CONFIG, 8, run.get("monitor", Monitor()), ["one", "two"], "01")
    assert engines.fit(run.get("config", CONFIG), run.get("replicas", 2), run.get("in_flight", 8)) is fits


@pytest.mark.parametrize("groups", [(), ("first", "second")], ids=["one node", "over nodes"])
def test_each_is_started_with_its_share_and_in_its_group(groups: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    started: list[dict[str, Any]] = []

    class OfActors:  # what ray.remote(Host) is, of which options() gives something without options()
        def options(self, **options: Any) -> Any:
            started.append(options)
            return SimpleNamespace(remote=lambda job: f"host {len(started)}")

    monkeypatch.setattr(ray, "remote", lambda _cls: OfActors())
    monkeypatch.setattr(ray, "put", lambda job: job)
    monkeypatch.setattr(warm.resources, "replica_resources", lambda *_: {"num_cpus": 0.5})
    engines = warm.start(CONFIG, SimpleNamespace(monitor=None, groups=groups), 2, 8)
    assert engines.hosts == ["host 1", "host 2"] and engines.groups == groups
    assert all(options["num_cpus"] == 0.5 and options["max_restarts"] == -1 for options in started)
    places = [options["scheduling_strategy"].placement_group for options in started if "scheduling_strategy" in options]
    assert places == list(groups)
