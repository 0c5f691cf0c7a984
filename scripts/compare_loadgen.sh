#!/usr/bin/env bash
# Compares our load generator with OpenG2G's: how exactly and how cheaply they
# measure inter-token latency. Needs Linux with two idle cores, taskset, and
# python3 (3.11 or later).
#
#   scripts/compare_loadgen.sh [--rounds N] [--seconds S] [--patience S] [--write]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/openg2g_venv.sh
exec "$venv/bin/python" scripts/compare_loadgen.py compare "$@"
