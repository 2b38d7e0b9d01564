#!/usr/bin/env bash
# Makes the CPU environment with the test tools (once) and runs all tests, on any machine.
#   ./test.sh           ./test.sh -m "not ray and not vllm and not browser"
set -euo pipefail
cd "$(dirname "$0")"
. scripts/environment.sh
make_environment cpu requirements/test.txt
exec "$PYTHON" -m pytest "$@"
