#!/usr/bin/env bash
# Compares this program with OpenG2G: how fast it is, or whether its numbers are
# the same. Makes .venv on the first run; needs python3 (3.11 or later).
#
#   scripts/compare_openg2g.sh speed [--rounds N] [--write]
#   scripts/compare_openg2g.sh exactness [--cases N] [--seed S] [--keep DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/openg2g_venv.sh
make --silent build
exec "$venv/bin/python" scripts/compare_openg2g.py "$@"
