"""What belongs to an installed package, against what a user wrote beside a notebook or a script."""

from __future__ import annotations

import sysconfig


def is_installed(file: str) -> bool:
    """Whether a module's file lies where Python and pip install: workers elsewhere are taken to have it too."""
    return file.startswith(tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")))
