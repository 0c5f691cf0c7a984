#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (20000x). Usage: fuzz.sh [PACKAGES]
set -euo pipefail
cd "$(dirname "$0")/.."

# `go test -list` prints a package's targets and then "ok PACKAGE TIME".
targets=$(go test -list '^Fuzz' "${@:-./...}" | awk '
	/^Fuzz/       { name[n++] = $1; next }
	$1 == "ok"    { for (i = 0; i < n; i++) print $2, name[i]; n = 0 }')
if [[ -z $targets ]]; then
	echo "no fuzz targets"
	exit 0
fi
while read -r package target; do
	echo "$package $target"
	go test -run='^$' -fuzz="^${target}\$" -fuzztime="${FUZZTIME:-20000x}" -fuzzminimizetime=20x "$package"
done <<<"$targets"
