# Sourced, in the repository root, by what checks Python code. The environments stand in
# .tools/python: all-VERSION has all that `make python`, `make examples`,
# `make openapi-clients` and `make recording-tools` need, those named by a version alone have pytest.
tools=$PWD/.tools/python
requirements=$PWD/clients/python/requirements-check.txt
first=3.11 # for which all extras are there
mkdir -p "$tools"

# pythons writes a line for each Python that can make environments: its version and path.
pythons() {
	local version candidate
	for version in 3.14 3.13 3.12 3.11 3.10; do
		for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python3 \
			/usr/local/bin/"python$version" /usr/bin/"python$version" python3; do
			if [[ $("$candidate" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == "$version" ]]; then
				echo "$version $(command -v "$candidate")"
				break
			fi
		done
	done
}

# environment makes the environment NAME of a Python with what else is named, unless it is
# there, and writes the path of its programs.
environment() {
	local venv=$tools/$1 python=$2
	shift 2
	local wanted arguments=()
	wanted=$("$python" -c 'import sys; print(sys.version)'; for one; do if [[ -f $one ]]; then cat "$one"; else echo "$one"; fi; done)
	if [[ $(cat "$venv/installed" 2>/dev/null) != "$wanted" ]]; then
		echo "installing into ${venv#"$PWD/"}" >&2
		rm -rf "$venv"
		# bash goes on after a failure here, whatever set -e says: this runs within $(…).
		"$python" -m venv "$venv" || return
		for one; do if [[ -f $one ]]; then arguments+=(-r "$one"); else arguments+=("$one"); fi; done
		"$venv/bin/pip" install --quiet --disable-pip-version-check "${arguments[@]}" || return
		echo "$wanted" >"$venv/installed"
	fi
	echo "$venv/bin"
}

found=$(pythons)
if [[ -n $found ]]; then
	grep -q "^$first " <<<"$found" || first=$(head -n 1 <<<"$found" | cut -d' ' -f1)
fi

# whole_environment makes the environment with all, of 3.11 if it is there, else of the newest.
whole_environment() {
	environment "all-$first" "$(grep "^$first " <<<"$found" | cut -d' ' -f2)" "$requirements" "$PWD/examples/openg2g/requirements.txt"
}
