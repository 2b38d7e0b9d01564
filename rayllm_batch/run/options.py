"""How a run is to be run: what RayLLMBatch takes beside an engine and a workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Union

from rayllm_batch.errors import ConfigError


@dataclass(frozen=True)
class RunOptions:
    """Checked when it is made, with ConfigError. What each means is said at RayLLMBatch."""

    batch_size: Optional[int] = None
    num_replicas: Union[int, tuple[int, int]] = 1
    preserve_order: bool = False
    stall_timeout_s: Optional[float] = 1800.0
    deduplicate: bool = True
    reorder: bool = True
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size)
        least, most = self.replica_range
        for value in (least, most):
            check_whole("num_replicas", value)
        if least > most:
            raise ConfigError(
                f"num_replicas=(least, most) must not have least above most, given {self.num_replicas!r}."
            )
        seconds: Any = self.stall_timeout_s
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and seconds > 0):
            raise ConfigError(f"stall_timeout_s must be above 0 seconds, or None, given {seconds!r}.")
        for name in ("preserve_order", "deduplicate", "reorder", "verbose"):
            check_switch(name, getattr(self, name))

    @property
    def replica_range(self) -> tuple[int, int]:
        """At least and at most."""
        given: Any = self.num_replicas
        return tuple(given) if isinstance(given, (tuple, list)) and len(given) == 2 else (given, given)


def check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, given {value!r}.")


def check_switch(name: str, value: Any) -> None:
    """`"no"` would count as true."""
    if value not in (True, False):
        raise ConfigError(f"{name} must be True or False, given {value!r}.")
