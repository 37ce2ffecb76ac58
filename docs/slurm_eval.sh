#!/bin/bash
# A share of an evaluation as one task of a SLURM job array; see docs/cluster.md. Without SLURM:
#   SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=4 ROUTES=... OUT=... bash docs/slurm_eval.sh
#SBATCH --job-name=raw2drive-eval
#SBATCH --cpus-per-task=4
#SBATCH --mem=24G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -u
: "${ROUTES:?route file}" "${OUT:?results folder}"
PYTHON=${PYTHON:-.venv/bin/python}
task=${SLURM_ARRAY_TASK_ID:-0}
tasks=${SLURM_ARRAY_TASK_COUNT:-1}

ids=$("$PYTHON" - "$ROUTES" "$task" "$tasks" "${TOWNS:-}" <<'EOF'
import sys
from pathlib import Path

from eval.routes import RouteFileError, read_routes, select_routes

path, task, tasks, towns = sys.argv[1:]
try:
    routes = select_routes(read_routes(Path(path)), towns=towns.split(",") if towns else None)
except RouteFileError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
print(",".join(route.id for route in routes[int(task) :: int(tasks)]))
EOF
) || exit 2
[ -n "$ids" ] || exit 0

# shellcheck disable=SC2086 # several words
"$PYTHON" -m eval run --routes "$ROUTES" --ids "$ids" --out "$OUT/task_$task" ${OPTIONS:-} &
runner=$!
trap 'kill -TERM "$runner"' TERM
wait "$runner"
code=$?
while kill -0 "$runner" 2>/dev/null; do # a trap interrupts `wait`
    wait "$runner"
    code=$?
done
if [ "$code" -eq 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_$task"
fi
exit "$code"
