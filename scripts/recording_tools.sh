#!/usr/bin/env bash
# Records a short demo, and has pandas, DuckDB, polars and zstdcat read a segment and
# exports of it: all must have the same numbers. Usage: recording_tools.sh [RECORDING]
# (one that is there, in place of the demo). Needs Python 3.11 or later and zstd, and skips
# itself without.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
	[ "${G2GTEST_REQUIRE_TOOLS:-}" != 1 ] || { echo "recording_tools: $1" >&2; exit 1; }
	echo "recording_tools: skipped, $1"
	exit 0
}
source scripts/python_environment.sh
[[ -n $found && $first != 3.10 ]] || skip "there is no Python 3.11 or later with venv"
command -v zstdcat >/dev/null || skip "there is no zstdcat"
bin=$(whole_environment)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/g2g-agent" ./cmd/g2g-agent
recording=${1:-$work/recording}
if [[ $# -eq 0 ]]; then
	# The demo's first command is at 15 s.
	"$work/g2g-agent" demo --record "$recording" --duration-s 17 >"$work/demo.log" 2>&1 || { cat "$work/demo.log" >&2; exit 1; }
	"$work/g2g-agent" recording verify "$recording"
fi
for kind in states power itl events; do
	for ending in csv jsonl parquet; do
		"$work/g2g-agent" export "$recording" --kind "$kind" --out "$work/$kind.$ending"
	done
done
"$bin/python" scripts/recording_tools.py --recording "$recording" --exports "$work"
