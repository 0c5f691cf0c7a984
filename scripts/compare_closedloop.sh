#!/usr/bin/env bash
# How fast OpenG2G's closed loop on the IEEE 13-bus feeder is with the agent as its
# datacenter, next to OfflineDatacenter, and what a step costs. Makes .venv on the
# first run; needs python3 (3.11 or later) and two idle cores.
#
#   scripts/compare_closedloop.sh [--rounds N] [--duration-s S] [--profile]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/openg2g_venv.sh
dss=opendssdirect.py==0.9.4
"$venv/bin/python" -c 'import opendssdirect' 2>/dev/null || "$venv/bin/pip" install --quiet --disable-pip-version-check "$dss"
make --silent build
PYTHONPATH=clients/python/src:examples/openg2g exec "$venv/bin/python" scripts/compare_closedloop.py "$@"
