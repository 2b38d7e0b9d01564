"""What comes back from processes that lack this package, whose classes travel by value."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

from rayllm_batch.cluster.shipping import ship_package
from rayllm_batch.report.estimate import Sample
from rayllm_batch.workers.trial import Trial

THERE = """
import dataclasses, pickle, sys
from ray import cloudpickle
given = pickle.load(open("sent", "rb"))
assert "rayllm_batch" not in sys.modules
kinds = {type(one.default) for one in dataclasses.fields(given)}
assert kinds == {type(dataclasses.MISSING)} and all(one.default is dataclasses.MISSING for one in dataclasses.fields(given))
open("told", "wb").write(cloudpickle.dumps(given))
"""


def test_dataclasses_are_what_they_were_after_an_object_came_back(tmp_path: Path) -> None:
    from ray import cloudpickle

    ship_package()
    given = Sample([3], [], 0.1, Trial(0.0, []), Trial(0.0, []))
    (tmp_path / "sent").write_bytes(cloudpickle.dumps(given))
    subprocess.run([sys.executable, "-c", THERE], cwd=tmp_path, env={"PATH": "/usr/bin"}, check=True)
    back = pickle.loads((tmp_path / "told").read_bytes())
    assert type(back) is Sample and back == given
    assert all(one.default is dataclasses.MISSING for one in (*dataclasses.fields(Sample), *dataclasses.fields(Trial)))
    further = dataclasses.make_dataclass("Further", [("more", int, 0)], bases=(Sample,), frozen=True)
    assert further([3], [], 0.1, Trial(0.0, []), Trial(0.0, [])).more == 0
