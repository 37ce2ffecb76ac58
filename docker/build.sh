#!/usr/bin/env bash
# Builds images: docker/build.sh [TARGET...], by default all of submission, selftest, simulator, training.
#
# LEADERBOARD_ROOT, SCENARIO_RUNNER_ROOT, CARLA_ROOT   checkouts that go into the submission image
# BUILDER         docker, podman or buildah (default: the first that works)
# BASE_IMAGE      default debian:bookworm-slim (Python 3.11)
# CARLA_VERSION, TORCH_VERSION, TORCH_BUILD, TORCH_INDEX_URL   see the Dockerfile
# BUILD_FLAGS     further words for the builder, such as --volume for a package mirror
# NAME            images are called NAME-TARGET (default raw2drive)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
name=${NAME:-raw2drive}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(submission selftest simulator training)

complain() {
    echo "error: $1" >&2
    exit 2
}

builder() {
    if [ -n "${BUILDER:-}" ]; then
        echo "$BUILDER"
    elif docker info >/dev/null 2>&1; then
        echo docker
    elif command -v podman >/dev/null; then
        echo podman
    elif command -v buildah >/dev/null; then
        echo buildah
    else
        complain "no docker engine, podman or buildah; install one of them"
    fi
}

# Lines of requirements.txt for the named packages.
pins() {
    local package
    for package in "$@"; do
        grep -iE "^$package==" "$root/requirements.txt" || complain "requirements.txt has no $package"
    done
}

checkout() { # NAME FILE
    [ -e "${!1:-}/$2" ] || complain "$1=${!1:-}: holds no $2; give the folder of a checkout"
}

builder=$(builder)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/context"
tar -C "$root" --exclude=__pycache__ -cf - agent eval simulator training weights docker | tar -C "$tree" -xf -
pins numpy PyYAML safetensors pillow jaxtyping >"$tree/context/agent.txt"
pins numpy scipy numba llvmlite msgpack PyYAML tyro pillow defusedxml zstandard >"$tree/context/simulator.txt"
sed '/^# Checks/,$d' "$root/requirements.txt" | grep -vE '^(torch|carla)==' >"$tree/context/full.txt"

case " ${targets[*]} " in *" submission "* | *" selftest "*)
    checkout LEADERBOARD_ROOT leaderboard/leaderboard_evaluator.py
    checkout SCENARIO_RUNNER_ROOT srunner/scenariomanager/scenario_manager.py
    checkout CARLA_ROOT PythonAPI/carla/agents
    mkdir -p "$tree/context/PythonAPI/carla" # the wheel replaces the egg; only `agents` is missing from it
    cp -r "$CARLA_ROOT/PythonAPI/carla/agents" "$tree/context/PythonAPI/carla/"
    for part in LEADERBOARD_ROOT:leaderboard SCENARIO_RUNNER_ROOT:scenario_runner; do
        source=${part%:*}
        mkdir "$tree/context/${part#*:}"
        tar -C "${!source}" --exclude=.git --exclude=__pycache__ -cf - . | tar -C "$tree/context/${part#*:}" -xf -
    done
    ;;
esac

command=("$builder" build)
[ "$builder" != buildah ] || command=(buildah bud --layers=false)
arguments=()
for variable in BASE_IMAGE CARLA_VERSION TORCH_VERSION TORCH_BUILD TORCH_INDEX_URL; do
    [ -z "${!variable:-}" ] || arguments+=(--build-arg "$variable=${!variable}")
done
for target in "${targets[@]}"; do
    echo "== $name-$target with $builder"
    # shellcheck disable=SC2086 # several words
    "${command[@]}" ${BUILD_FLAGS:-} "${arguments[@]}" --target "$target" --tag "$name-$target" \
        --file "$tree/docker/Dockerfile" "$tree"
done
