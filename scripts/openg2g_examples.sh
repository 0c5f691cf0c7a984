#!/usr/bin/env bash
# Runs examples/openg2g and its notebooks, with the program and the Python package of this
# tree, or the program that G2G_AGENT_BINARY names. Needs Python 3.11 or later.
#
#   scripts/openg2g_examples.sh          short runs, as in CI: two minutes
#   scripts/openg2g_examples.sh --full   OpenG2G's full hour and a minute live
set -euo pipefail
cd "$(dirname "$0")/.."

closed_loop=(--duration-s 120 --live-duration-s 12)
two_sites=(--duration-s 30)
gym=(--episodes 2 --duration-s 20)
export G2G_EXAMPLES_DURATION_S=20 G2G_EXAMPLES_LIVE_DURATION_S=6
case ${1-} in
"") ;;
--full)
	closed_loop=() two_sites=() gym=()
	unset G2G_EXAMPLES_DURATION_S G2G_EXAMPLES_LIVE_DURATION_S
	;;
*)
	echo "usage: $0 [--full]" >&2
	exit 2
	;;
esac

source scripts/python_environment.sh
[[ -n $found ]] || { echo "$0: no Python with venv and ensurepip was found; install one (Debian: python3-venv)" >&2; exit 1; }
bin=$(whole_environment)
export PYTHONPATH=$PWD/clients/python/src

if [[ -z ${G2G_AGENT_BINARY-} ]]; then
	make --silent build
	export G2G_AGENT_BINARY=$PWD/bin/g2g-agent
fi

run() {
	echo "== examples: $*"
	"$bin/python" "examples/openg2g/$1" "${@:2}"
}
echo "== examples: lint and tests"
"$bin/ruff" format --no-cache --check --quiet examples/openg2g
"$bin/ruff" check --no-cache --quiet examples/openg2g
"$bin/python" -m pytest --quiet -p no:cacheprovider examples/openg2g/tests
run feeder/check_feeder.py
run closed_loop.py "${closed_loop[@]}"
run two_sites.py "${two_sites[@]}"
run lease.py --lease-s 4
run gym_env.py "${gym[@]}"
echo "== examples: notebooks"
"$bin/python" scripts/run_notebooks.py examples/openg2g/notebooks/*.ipynb
