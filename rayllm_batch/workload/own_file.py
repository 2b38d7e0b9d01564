"""The file of code in which a workload says where its rows are."""

from __future__ import annotations

import os
import sys
from typing import Any, Optional


def own_file(workload: Any) -> Optional[str]:
    """The path of the one in which the class stands whose default its dataset_file is.

    None where there is none, as in a notebook, and of a dataset_file that the instance was given: a path on a command
    line, or in another's code, says nothing of the file of the class.
    """
    for cls in type(workload).__mro__:
        if "dataset_file" in vars(cls):
            is_default = vars(cls)["dataset_file"] == getattr(workload, "dataset_file", None)
            file = getattr(sys.modules.get(cls.__module__), "__file__", None) if is_default else None
            return os.path.abspath(file) if file else None
    return None
