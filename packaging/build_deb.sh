#!/usr/bin/env bash
# Builds the Debian package for GOARCH (this machine's unless set) into OUT (bin/),
# and prints its path. VERSION is the program's, as in the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
OUT=${OUT:-bin}
# The pinned tool; NFPM names another.
NFPM=${NFPM:-go tool -modfile=tools/go.mod nfpm}

DEB_ARCH=$(go env GOARCH)
[ "$DEB_ARCH" != arm ] || DEB_ARCH=armhf
# v1.2.0-rc.1 is older than 1.2.0; v1.2.0-5-gabc is newer; a bare commit is the oldest.
case "$VERSION" in
v[0-9]*) DEB_VERSION=$(echo "${VERSION#v}" | sed -E 's/-(alpha|beta|rc)/~\1/; s/-/+/; s/-/./g') ;;
[0-9]*.*) DEB_VERSION=$(echo "$VERSION" | sed -E 's/-(alpha|beta|rc)/~\1/; s/-/+/; s/-/./g') ;;
*) DEB_VERSION=0.0.0+git.${VERSION//-/.} ;;
esac
# Everything in the package is as old as the commit, so that it can be built again.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export DEB_ARCH DEB_VERSION SOURCE_DATE_EPOCH

stage=bin/package
rm -rf "$stage"
mkdir -p "$stage" "$OUT"
GOOS=linux make --no-print-directory build VERSION="$VERSION" >&2

gzip -9nc packaging/g2g-agent.1 > "$stage/g2g-agent.1.gz"
gzip -9nc CHANGELOG.md > "$stage/changelog.gz"
gzip -9nc > "$stage/changelog.Debian.gz" <<END
g2g-agent ($DEB_VERSION-1) unstable; urgency=medium

  * What changed is in changelog.gz.

 -- g2g-agent maintainers <g2g-agent@users.noreply.github.com>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
cp packaging/lintian-overrides "$stage/lintian-overrides"

# The licenses of the Go modules in the program ask to be passed on with it.
GOOS=linux CGO_ENABLED=0 go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/g2g-agent | LC_ALL=C sort -u |
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
	done | gzip -9nc > "$stage/third-party-licenses.gz"

package=$OUT/g2g-agent_${DEB_VERSION}-1_$DEB_ARCH.deb
$NFPM package --config packaging/nfpm.yaml --packager deb --target "$package" >&2
echo "$package"
