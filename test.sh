#!/usr/bin/env bash
# Makes the CPU environment with the test tools (once) and runs all tests, on any machine.
#   ./test.sh           ./test.sh --fast        those that need neither Ray nor vLLM nor a browser
#   ./test.sh --newest [tests/...]      what depends on vLLM, with the newest one, in an environment of its own
set -euo pipefail
cd "$(dirname "$0")"
. scripts/environment.sh
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not ray and not vllm and not browser" "$@"
fi
if [ "${1:-}" != --newest ]; then
  make_environment cpu requirements/test.txt
  exec "$PYTHON" -m pytest "$@"
fi
shift
make_environment newest
of_vllm=(
  tests/test_{back_off,config,deaf,engine_args,fingerprint,imports,legacy,lora,plan,preflight,replica}.py
  tests/test_{sampling,sampling_against_vllm,sampling_fields,structured,versions,vllm_processes,vllm_versions}.py
  tests/test_{forkserver,reaper,requests_in_vllm,run_vllm}.py  # these start engines, or Ray
)
for argument in "$@"; do [ ! -e "${argument%%::*}" ] || of_vllm=(); done
exec "$PYTHON" -m pytest "${of_vllm[@]}" "$@"
