import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the loopback Hub, shared with tests/browser

from hub_fixtures import hub, hub_env, isolated  # noqa: E402, F401  (fixtures)
