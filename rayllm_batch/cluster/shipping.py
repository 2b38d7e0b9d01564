"""This package's code travels by value: worker nodes need Ray and vLLM, no more."""

from __future__ import annotations

import sys
from typing import Any


def ship_package() -> None:
    """From now on, in this process, with all that refers to it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules["rayllm_batch"])
    _keep_missing_one()


def _keep_missing_one() -> Any:
    """Pickle dataclasses.MISSING by reference, here and in each process that gets it, and return it.

    A copy of it, which pickle makes, comes with the fields of each dataclass that travels by value, and with an answer
    also back: cloudpickle hands its attributes to the class that is there. The fields then have a default and a
    factory, as it seems, and nobody can make a further dataclass of them.
    """
    import copyreg
    import dataclasses

    copyreg.pickle(type(dataclasses.MISSING), lambda _: (_keep_missing_one, ()))
    return dataclasses.MISSING
