#!/bin/sh
# Stands in for CARLA's launcher, so that programs which start CARLA themselves start the embedded server instead:
# point CARLA_ROOT at this folder. RAW2DRIVE_PYTHON: interpreter that has this project's requirements;
# RAW2DRIVE_TOWN_DIR: folder with .xodr files; RAW2DRIVE_TOWN: town to begin with; RAW2DRIVE_THREADS.
set -eu
port=2000
for word in "$@"; do
    case $word in
        -carla-rpc-port=* | -carla-port=* | -world-port=*) port=${word#*=} ;;
    esac
done
here=$(dirname "$(readlink -f "$0")")
cd "$here/../../.."
exec "${RAW2DRIVE_PYTHON:-python3}" -m simulator serve --port "$port" --town "${RAW2DRIVE_TOWN:-Gen01}" \
    --threads "${RAW2DRIVE_THREADS:-2}" ${RAW2DRIVE_TOWN_DIR:+--town-dir "$RAW2DRIVE_TOWN_DIR"} --die-with-parent
