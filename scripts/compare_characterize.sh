#!/usr/bin/env bash
# Whether OpenG2G takes what this program characterizes: a simulated host is measured at
# some of the feasible batch sizes, OpenG2G loads the data and writes it anew, and
# replays of the two programs agree, each on what the other wrote. Makes .venv on the
# first run; needs python3 (3.11 or later).
#
#   scripts/compare_characterize.sh [--measure-s N] [--keep DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/openg2g_venv.sh
make --silent build
exec "$venv/bin/python" scripts/compare_characterize.py "$@"
