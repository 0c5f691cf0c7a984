#!/usr/bin/env bash
# Builds the Python wheel of this machine, installs it without a network into empty
# environments of each Python 3.10 or later that is there, and runs the program; then the
# same with the wheel that has no program, which must say so.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "check_wheel: $*" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source packaging/python_build.sh
VERSION=$(packaging/version.sh)
PYTHON_VERSION=$(VERSION=$VERSION packaging/version.sh --python)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
make --no-print-directory build VERSION="$VERSION"
stage_python "$work/python"
case "$(go env GOARCH)" in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) fail "there are no wheels for $(go env GOARCH)" ;;
esac
build_wheel "$work/python" "$work/with" "$PWD/bin/g2g-agent" "manylinux_2_17_$machine.musllinux_1_1_$machine"
build_wheel "$work/python" "$work/without"
[ -f "$work/without/g2g_agent-$PYTHON_VERSION-py3-none-any.whl" ] || fail "the wheel without the program is $(ls "$work/without")"

found=0
for minor in 10 11 12 13 14; do
	for python3 in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python3; do
		"$python3" -c "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null || continue
		found=$((found + 1))
		env=$work/env$minor
		"$python3" -m venv "$env"
		"$env/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps "$work"/with/*.whl
		said=$(cd "$work" && "$env/bin/g2g-agent" version)
		[[ $said == "g2g-agent $VERSION "* ]] || fail "Python 3.$minor: the installed program says: $said"
		of=$(cd "$work" && "$env/bin/python" -c 'import g2g_agent; print(g2g_agent.__version__)')
		[ "$of" = "$PYTHON_VERSION" ] || fail "Python 3.$minor: the package's version is $of, want $PYTHON_VERSION"
		(cd "$work" && "$env/bin/g2g-agent" check --config "$OLDPWD/configs/replay.yaml")
		echo "-- Python 3.$minor: $said"
		break
	done
done
((found)) || fail "there is no Python 3.10 or later with venv"

# What the package's README shows first: five lines that print a demo's power.
five=$(awk '/^```python/ {on = 1; next} /^```/ && on {exit} on' clients/python/README.md)
said=$(cd "$work" && "$env/bin/python" -c "$five")
[[ $said == "ThreePhase(a="* ]] || fail "the first lines of the package's README print: $said"
echo "-- the first lines of the README: $said"

"$env/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "$work"/without/*.whl
said=$(cd "$work" && PATH=$env/bin:/usr/bin:/bin "$env/bin/g2g-agent" version 2>&1) && fail "without a program it says: $said"
[[ $said == *"no g2g-agent program"* ]] || fail "without a program it says: $said"
echo "-- without the program: $said"
