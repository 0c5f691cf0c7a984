# Sourced by scripts that run OpenG2G, in the repository root: makes .venv on the
# first run, and sets venv. Needs python3 (3.11 or later).
packages=(openg2g==0.2.0.post1 numpy==2.4.6 pandas==3.1.1)

venv=.venv
installed=$venv/compare_openg2g.installed
if [[ $(cat "$installed" 2>/dev/null) != "${packages[*]}" ]]; then
	echo "installing ${packages[*]} into $venv" >&2
	python3 -m venv "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
	echo "${packages[*]}" >"$installed"
fi
