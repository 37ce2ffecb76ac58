#!/bin/bash
# As the leaderboard's agent_entrypoint.sh: what is to be sourced comes first, then the command.
set -e
if [ -f "${HOME}/agent_sources.sh" ]; then
    # shellcheck source=/dev/null
    source "${HOME}/agent_sources.sh"
fi
exec "$@"
