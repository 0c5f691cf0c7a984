#!/usr/bin/env bash
# Makes Python clients of the API's description with two generators, and uses each
# against the demo and a replay in lockstep, and against answers that have members
# more. Needs Python 3.11 or later, and skips itself without.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/python_environment.sh
if [[ -z $found || $first == 3.10 ]]; then
	[ "${G2GTEST_REQUIRE_TOOLS:-}" != 1 ] || { echo "openapi_clients: there is no Python 3.11 or later with venv" >&2; exit 1; }
	echo "openapi_clients: skipped, there is no Python 3.11 or later with venv"
	exit 0
fi
bin=$(whole_environment)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/g2g-agent" ./cmd/g2g-agent
PATH="$bin:$PATH" "$bin/python" scripts/openapi_clients.py --work "$work" --agent "$work/g2g-agent"
