#!/usr/bin/env bash
# Checks the Python package in clients/python: layout, lint and types, all tests on one Python
# (3.11 if it is there, else the newest), and those that are quick on each other Python from
# 3.10 to 3.14 that is found, where pytest alone is installed. PYTEST_ARGS are handed to pytest.
# Needs Go, and one Python of these.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/python_environment.sh
if [[ -z $found ]]; then
	echo "python_check.sh: no Python from 3.10 to 3.14 with venv and ensurepip was found; install one (Debian: python3-venv)" >&2
	exit 1
fi
whole=$(whole_environment)

CGO_ENABLED=0 go build -trimpath -o "$tools/g2g-agent" ./cmd/g2g-agent
export G2G_AGENT_BINARY=$tools/g2g-agent G2GTEST_REQUIRE_TOOLS=1

pytest=$(grep '^pytest==' "$requirements")
cd clients/python
"$whole/ruff" format --check .
"$whole/ruff" check .
"$whole/mypy"
"$whole/pyright" --pythonpath "$whole/python"

# The types of all that `import g2g_agent` brings must be known to those who use it. The extras
# are left out: what they derive from tells no types.
core=$tools/core-$first
rm -rf "$core"
"$whole/python" -m venv --without-pip "$core"
PYTHONPATH=src "$core/bin/python" - <<'PYTHON'
import pathlib, shutil, sys, sysconfig
import g2g_agent
to = pathlib.Path(sysconfig.get_path("purelib"), "g2g_agent")
to.mkdir()
for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "g2g_agent"]:
    shutil.copy(module.__file__, to)
shutil.copy(pathlib.Path(g2g_agent.__file__).with_name("py.typed"), to)
PYTHON
PATH=$core/bin:$PATH "$whole/pyright" --verifytypes g2g_agent --ignoreexternal >"$core/verifytypes" || {
	cat "$core/verifytypes"
	exit 1
}
grep "completeness" "$core/verifytypes"

# The quick tests run beside the others, which mostly wait for steps to be due.
quick_tests() {
	local version python
	while read -r version python; do
		[[ $version == "$first" ]] && continue
		echo "-- quick tests, Python $version"
		# shellcheck disable=SC2086 # several arguments
		PYTHONPATH=src "$(environment "$version" "$python" "$pytest")/python" -m pytest -q -p no:cacheprovider -m "not slow" ${PYTEST_ARGS:-}
	done <<<"$found"
}
quick_tests >"$tools/quick.log" 2>&1 &
quick=$!
trap 'kill "$quick" 2>/dev/null || true' EXIT

echo "-- tests, Python $first"
# shellcheck disable=SC2086
PYTHONPATH=src "$whole/python" -m pytest -q -p no:cacheprovider ${PYTEST_ARGS:-}
wait "$quick" || {
	cat "$tools/quick.log"
	exit 1
}
trap - EXIT
cat "$tools/quick.log"
