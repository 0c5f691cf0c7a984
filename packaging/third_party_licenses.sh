#!/usr/bin/env bash
# Prints the licenses of the Go modules in the program for GOOS and GOARCH (this
# machine's unless set), which ask to be passed on with it.
set -euo pipefail
cd "$(dirname "$0")/.."

CGO_ENABLED=0 go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/g2g-agent | LC_ALL=C sort -u |
	while read -r module version dir; do
		found=no
		for file in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
			[ -f "$file" ] || continue
			found=yes
			printf '==== %s %s: %s\n\n' "$module" "$version" "$(basename "$file")"
			cat "$file"
			printf '\n\n'
		done
		[ "$found" = yes ] || { echo "$module has no license file" >&2; exit 1; }
	done
# The standard library is in it too.
printf '==== Go %s: LICENSE\n\n' "$(go env GOVERSION)"
cat "$(go env GOROOT)/LICENSE"
