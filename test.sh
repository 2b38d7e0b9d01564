#!/usr/bin/env bash
# Makes the CPU environment with the test tools (once) and runs all tests, on any machine.
#   ./test.sh           ./test.sh --fast        the package's, of those that need neither Ray nor vLLM nor a browser
#   ./test.sh --newest [tests/...]      what depends on vLLM, with the newest one, in an environment of its own
set -euo pipefail
cd "$(dirname "$0")"
. scripts/environment.sh
if [ "${1:-}" != --newest ]; then
  make_environment cpu requirements/test.txt
  at_once=(--numprocesses auto --dist worksteal)
  if [ "${1:-}" = --fast ]; then
    beside=(--ignore=tests/scripts --ignore=tests/docs --ignore=tests/bench)  # they train, install, check types
    exec "$PYTHON" -m pytest -m "not ray and not vllm and not browser" "${beside[@]}" "${at_once[@]}" "${@:2}"
  fi
  for argument in "$@"; do
    case "$argument" in --*) ;; *) exec "$PYTHON" -m pytest "$@" ;; esac  # some tests of the user's choice
  done
  failed=0
  "$PYTHON" -m pytest -m "not ray and not browser" "${at_once[@]}" "$@" || failed=$?
  # Two files at once, whatever the machine: much of the time a test waits, for a process that starts or an import.
  "$PYTHON" -m pytest -m "ray or browser" --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@" || failed=$?
  exit "$failed"
fi
shift
make_environment newest
of_vllm=(  # the stories start engines, most of them in Ray
  tests/engine tests/config tests/support tests/tasks tests/output/test_fingerprint.py
  tests/run/test_{adapters,forms,plan,preflight}.py tests/cluster/test_versions.py tests/workers/test_replica.py
  tests/test_imports.py tests/stories/test_{requests_in,run,parsers_in,pooling_in}_vllm.py
)
for argument in "$@"; do [ ! -e "${argument%%::*}" ] || of_vllm=(); done
exec "$PYTHON" -m pytest "${of_vllm[@]}" "$@"
