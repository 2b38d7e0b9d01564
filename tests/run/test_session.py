"""Which error the user sees when a run fails: that of its own cause."""

from __future__ import annotations

import pytest
import ray.exceptions

from rayllm_batch.errors import DatasetError, EngineError, OutputError, RayLLMBatchError
from rayllm_batch.measures.snapshot import Snapshot
from rayllm_batch.run.session import explained

DIED = "The engine died. Its last words:\nXid 79"


class OfRay(Exception):
    def __init__(self, cause: BaseException | None) -> None:
        super().__init__("a task failed")
        self.cause = cause


def snapshot(failure: tuple[str, str] | None = None, last_death: str | None = None) -> Snapshot:
    return Snapshot(failure=failure, last_death=last_death)


@pytest.mark.parametrize("error", [OutputError("the disk is full"), KeyboardInterrupt(), SystemExit(3)])
def test_ours_and_interrupts_stay_what_they_are(error: BaseException) -> None:
    assert explained(error, snapshot(("EngineError", "no memory"), DIED)) is error


def test_one_of_ours_in_rays_goes_before_what_a_replica_once_said() -> None:
    ours = DatasetError("line 7 is not JSON")
    assert explained(OfRay(ours), snapshot(("EngineError", "no memory"), DIED)) is ours


def test_what_ends_the_run_is_told() -> None:
    error = explained(OfRay(None), snapshot(("ModelAccessError", "no access"), DIED))
    assert isinstance(error, RayLLMBatchError) and (type(error).__name__, str(error)) == (
        "ModelAccessError",
        "no access",
    )


@pytest.mark.parametrize("error", [OSError("no space left"), OfRay(ValueError("Arrow")), RuntimeError("the end")])
def test_a_death_from_which_the_run_recovered_explains_nothing_else(error: BaseException) -> None:
    assert explained(error, snapshot(None, DIED)) is error


def test_a_lost_engine_is_explained_by_its_last_words() -> None:
    error = explained(OfRay(ray.exceptions.ActorDiedError()), snapshot(None, DIED))
    assert isinstance(error, EngineError) and str(error) == DIED


@pytest.mark.parametrize("last", [None, Snapshot()])
def test_nothing_known_is_nothing_invented(last: Snapshot | None) -> None:
    error = ray.exceptions.ActorDiedError()
    assert explained(error, last) is error
