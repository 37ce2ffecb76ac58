#!/bin/bash
# The official evaluator with this image's agent, against the CARLA at ${HOST}:${PORT}. The variables are those of the
# leaderboard's run_leaderboard.sh; they keep the image's values unless they are given with `docker run --env`.
set -eu
exec python /workspace/launch.py -- \
    --host="${HOST}" --port="${PORT}" --traffic-manager-port="${TM_PORT}" \
    --routes="${ROUTES}" --routes-subset="${ROUTES_SUBSET}" --repetitions="${REPETITIONS}" \
    --track="${CHALLENGE_TRACK_CODENAME}" --agent="${TEAM_AGENT}" --agent-config="${TEAM_CONFIG}" \
    --checkpoint="${CHECKPOINT_ENDPOINT}" --debug-checkpoint="${DEBUG_CHECKPOINT_ENDPOINT}" \
    --debug="${DEBUG_CHALLENGE}" --record="${RECORD_PATH}" --resume="${RESUME}"
