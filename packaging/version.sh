#!/usr/bin/env bash
# Prints the version: the number of cmd/g2g-agent/VERSION, with the commit after it unless
# that is tagged vNUMBER and nothing is changed. --debian and --python print it as Debian
# and Python (PEP 440) spell it, of VERSION if that is set.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${VERSION:-}
if [ -z "$version" ]; then
	version=$(cat cmd/g2g-agent/VERSION)
	if commit=$(git rev-parse HEAD 2>/dev/null); then
		changed=$(git status --porcelain --untracked-files=no)
		if [ -n "$changed" ] || ! git tag --points-at HEAD | grep -qxF "v$version"; then
			version+=+g${commit:0:12}${changed:+.dirty}
		fi
	fi
fi
version=${version#v}
number=${version%%+*}
commit=${version:${#number}}

case "${1:-}" in
"") echo "$version" ;;
# 1.2.0~rc.1 is older than 1.2.0.
--debian) echo "${number/-/\~}$commit" ;;
--python)
	case "$number" in
	*-*)
		pre=${number#*-}
		kind=${pre%%.*} n=0
		[ "$kind" = "$pre" ] || n=${pre#*.}
		case "$kind" in
		dev) pre=.dev$n ;;
		alpha) pre=a$n ;;
		beta) pre=b$n ;;
		rc) pre=rc$n ;;
		*) echo "version.sh: $number: want -dev, -alpha, -beta or -rc after the number" >&2; exit 1 ;;
		esac
		echo "${number%%-*}$pre$commit" ;;
	*) echo "$number$commit" ;;
	esac ;;
*) echo "usage: version.sh [--debian|--python]" >&2; exit 2 ;;
esac
