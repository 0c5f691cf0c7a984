#!/usr/bin/env bash
# Compares how this program and OpenG2G make inference data of ML.ENERGY benchmark
# data. Makes .venv on the first run; needs python3 (3.11 or later).
#
#   scripts/compare_generation.sh exactness [--cases N] [--seed S] [--keep DIR]
#       random benchmarks: the same files? and do replays of the two programs agree,
#       each on what the other wrote?
#   scripts/compare_generation.sh speed [--runs N] [--megabytes M] [--models N]
#       a large benchmark: time and memory of both, one after the other
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/openg2g_venv.sh
make --silent build
exec "$venv/bin/python" scripts/compare_generation.py "$@"
