#!/bin/bash
# A run of rayllm_batch on Slurm:
#
#     sbatch slurm.sh
#
# The environment that sbatch is called with goes along (HF_TOKEN, for a gated model): this file holds no secret. When the
# time is up the run ends cleanly and the job is queued again, as it is when a node fails; it continues the same folder.
# Exit codes are the run's: 3 when every row is done and some have an error.
#SBATCH --job-name=summaries
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --partition=gpu
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180

run=(
  python -m rayllm_batch run
  --config configs/llama-3.1-8b-h100-fp8.yaml
  --workload rayllm_batch:CNNDailySummary
  --num-replicas 16
  --output /shared/summaries
)
cd -- /shared/rayllm_batch || exit
source /shared/venv/bin/activate || exit

# USR1: the time is nearly up. TERM: somebody ends the job, which is then not queued again.
ending="" pid=""
end() {
  ending=$1
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null
}
trap 'end USR1' USR1
trap 'end TERM' TERM

# Run a command to its end, also when a signal comes meanwhile. Its exit code, or that of a terminated one.
attend() {
  [[ -z $ending ]] || return 143
  "$@" &
  pid=$!
  wait "$pid"
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
  wait "$pid" # bash keeps the code of one that ended
  local code=$?
  pid=""
  return "$code"
}

# Of this job only: another on the same node has other ports, another folder, another token. The token goes through the
# environment, from which no process list shows it.
first_port=$((20000 + SLURM_JOB_ID % 3000 * 4))
export RAY_TMPDIR=/tmp/rayllm-$SLURM_JOB_ID RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
host=$(python -c 'import ray; print(ray.util.get_node_ip_address())') || exit
export RAY_ADDRESS=$host:$first_port
node=(--num-cpus=64 --num-gpus=8 --dashboard-agent-listen-port=$((first_port + 3)) --block)

ray start --head --node-ip-address="$host" --port="$first_port" --ray-client-server-port=$((first_port + 1)) \
  --dashboard-port=$((first_port + 2)) "${node[@]}" &
ray=($!)
answers() { (exec 3<>"/dev/tcp/$host/$first_port") 2>/dev/null; }
for ((i = 0; i < 600; i++)); do
  answers || ! kill -0 "${ray[0]}" 2>/dev/null && break
  sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --relative=1 --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --cpus-per-task=64 \
    --kill-on-bad-exit=0 ray start --address="$RAY_ADDRESS" "${node[@]}" &
  ray+=($!)
fi

all_joined() {
  timeout 600 python - "$SLURM_JOB_NUM_NODES" <<'END'
import sys, time, ray

ray.init(logging_level="ERROR")
wanted, seen = int(sys.argv[1]), -1
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if alive != seen:
        print(f"{alive} of {wanted} nodes have joined.", flush=True)
        seen = alive
    time.sleep(1)
END
}

if attend all_joined; then
  attend "${run[@]}"
  code=$?
else
  code=$?
  [[ -n $ending ]] || echo "Not all $SLURM_JOB_NUM_NODES nodes joined the Ray cluster within 600 s." >&2
fi

kill "${ray[@]}" 2>/dev/null
wait "${ray[@]}"
# Ray's logs stay on the nodes, in $RAY_TMPDIR, where they may tell why the run failed.
case $code in
  0 | 3 | 143) srun --ntasks-per-node=1 rm -rf -- "$RAY_TMPDIR" 2>/dev/null || rm -rf -- "$RAY_TMPDIR" ;;
esac

if [[ $ending == USR1 && $code -ne 0 && $code -ne 3 ]]; then
  if ((${SLURM_RESTART_COUNT:-0} < 50)); then
    echo "The time is up: the job is queued again, and continues." >&2
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "The time is up after 50 tries. The same script continues it." >&2
  fi
fi
exit "$code"
