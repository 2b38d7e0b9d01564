"""How a shell gets at this package: the environment in which it runs, and its command there."""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

COMMAND = "rayllm-batch"


@dataclass(frozen=True)
class Environment:
    """setup: lines that a shell needs once, quoted; none where it has all. command: what is `rayllm-batch` then."""

    setup: tuple[str, ...]
    command: str

    @classmethod
    def of_this_process(cls) -> Environment:
        activate = Path(sys.prefix) / "bin" / "activate"
        is_virtual = sys.prefix != sys.base_prefix and activate.is_file()
        setup = [f"source {shlex.quote(str(activate))}"] if is_virtual else []
        if shutil.which(COMMAND, path=sysconfig.get_path("scripts")):
            return cls(tuple(setup), COMMAND)
        # a checkout in an environment of the user's own, where nobody has installed it
        setup.append(f"export PYTHONPATH={shlex.quote(str(Path(__file__).resolve().parents[2]))}")
        return cls(tuple(setup), f"{'python' if is_virtual else shlex.quote(sys.executable)} -m rayllm_batch")
