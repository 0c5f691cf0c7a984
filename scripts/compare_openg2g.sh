#!/usr/bin/env bash
# Compares this program with OpenG2G: how fast it is, or whether its numbers are
# the same. Makes .venv on the first run; needs python3 (3.11 or later).
#
#   scripts/compare_openg2g.sh speed [--rounds N] [--write]
#   scripts/compare_openg2g.sh exactness [--cases N] [--seed S] [--keep DIR]
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(openg2g==0.2.0.post1 numpy==2.4.6 pandas==3.1.1)

venv=.venv
installed=$venv/compare_openg2g.installed
if [[ $(cat "$installed" 2>/dev/null) != "${packages[*]}" ]]; then
	echo "installing ${packages[*]} into $venv" >&2
	python3 -m venv "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
	echo "${packages[*]}" >"$installed"
fi
make --silent build
exec "$venv/bin/python" scripts/compare_openg2g.py "$@"
