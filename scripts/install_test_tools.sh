#!/usr/bin/env bash
# Installs what some tests need beside Go, on Debian and as root: a browser for
# the live page, systemd-analyze, man and lintian for the service and its package,
# curl, a WebSocket library for the examples of the API guide, openssl for a certificate, and zstdcat for
# recordings. Tests skip what is missing, unless G2GTEST_REQUIRE_TOOLS=1.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for package in chromium:chromium systemd-analyze:systemd man:man-db lintian:lintian curl:curl openssl:openssl zstdcat:zstd; do
	command -v "${package%%:*}" >/dev/null || missing+=("${package##*:}")
done
if ((${#missing[@]})); then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update --quiet=2
	apt-get install --quiet=2 --no-install-recommends "${missing[@]}" >/dev/null
fi

websockets=websockets==15.0.1
venv=.venv
installed=$venv/websockets.installed
if [[ $(cat "$installed" 2>/dev/null) != "$websockets" ]]; then
	python3 -m venv "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check "$websockets"
	echo "$websockets" >"$installed"
fi
