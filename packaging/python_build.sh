# Sourced by scripts that build Python packages, in the repository root: makes .venv on
# the first run, and sets python. Needs python3.
build_tools=(hatchling==1.33.0 packaging==26.4 pathspec==1.1.1 pluggy==1.7.0 trove-classifiers==2026.9.21.13)

built=.venv/python_build.installed
if [[ $(cat "$built" 2>/dev/null) != "${build_tools[*]}" ]]; then
	echo "installing ${build_tools[*]} into .venv" >&2
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check "${build_tools[@]}"
	echo "${build_tools[*]}" >"$built"
fi
python=$PWD/.venv/bin/python

# stage_python FOLDER: clients/python as it is released, with the version that PYTHON_VERSION
# has, and the licenses beside it.
stage_python() {
	rm -rf "$1"
	mkdir -p "$1"
	git ls-files -z --cached --others --exclude-standard clients/python | tar -c --null --files-from=- | tar -x --strip-components=2 -C "$1"
	sed -i "s/^__version__ = .*/__version__ = \"$PYTHON_VERSION\"/" "$1/src/g2g_agent/_version.py"
	cp LICENSE "$1/"
	# The mode of a file is part of a wheel, and differs with umask.
	find "$1" -type f -exec chmod 644 {} +
}

# build_wheel STAGE OUT [BINARY TAG]: with the program of that platform, or without one.
build_wheel() {
	(cd "$1" && G2G_AGENT_WHEEL_BINARY=${3:-} G2G_AGENT_WHEEL_TAG=${4:-} "$python" -m hatchling build --target wheel --directory "$2" >&2)
}
