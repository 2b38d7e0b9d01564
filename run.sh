#!/usr/bin/env bash
# Makes the environment (once) and runs main.py: on a GPU if there is an NVIDIA driver, else the CPU demo.
#   ./run.sh            CONFIG=configs/llama-3.1-8b-l4.yaml ROWS=500 ./run.sh
set -euo pipefail
cd "$(dirname "$0")"
. scripts/environment.sh
if has_nvidia_driver; then make_environment gpu; else make_environment cpu; fi
exec "$PYTHON" main.py "$@"
