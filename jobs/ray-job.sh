#!/bin/bash
# A run of rayllm_batch as a Ray Job:
#
#     bash ray-job.sh
#
# A cluster that asks for a token has it from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here. HF_TOKEN, for a gated model, is
# in the environment of the cluster's head: a job's own environment is shown on the dashboard. This file holds no secret.
# The folder is sent without what .gitignore names. Submitted again, the run continues the same output.
set -euo pipefail

run=(
  python -m rayllm_batch run
  --config configs/llama-3.1-8b-l4.yaml
  --workload rayllm_batch:CNNDailySummary
  --num-replicas 4
  --output s3://my-bucket/summaries/
)

# The package goes along with the job, and a stopped run has time to write its answers.
runtime_env=$(
  python - <<'END'
import json, os, rayllm_batch

package = os.path.dirname(os.path.abspath(rayllm_batch.__file__))
print(json.dumps({"py_modules": [package], "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}))
END
)

exec ray job submit --working-dir . --runtime-env-json "$runtime_env" \
  --submission-id "summaries-$(date +%Y%m%d-%H%M%S)" -- "${run[@]}"
