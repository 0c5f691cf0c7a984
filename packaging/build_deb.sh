#!/usr/bin/env bash
# Builds the Debian package for GOARCH (this machine's unless set) into OUT (bin/),
# and prints its path. VERSION is that of version.sh unless it is set; BINARY is the
# program if it is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-bin}
# The pinned tool, for this machine; NFPM names another.
NFPM=${NFPM:-env -u GOOS -u GOARCH go tool -modfile=tools/go.mod nfpm}

DEB_ARCH=$(go env GOARCH)
[ "$DEB_ARCH" != arm ] || DEB_ARCH=armhf
VERSION=$(packaging/version.sh)
DEB_VERSION=$(VERSION=$VERSION packaging/version.sh --debian)
# Everything in the package is as old as the commit, so that it can be built again.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export DEB_ARCH DEB_VERSION SOURCE_DATE_EPOCH

stage=bin/package
rm -rf "$stage"
mkdir -p "$stage" "$OUT"
if [ -z "${BINARY:-}" ]; then
	GOOS=linux make --no-print-directory build VERSION="$VERSION" >&2
	BINARY=bin/g2g-agent
fi
cp "$BINARY" "$stage/g2g-agent"

gzip -9nc packaging/g2g-agent.1 > "$stage/g2g-agent.1.gz"
gzip -9nc CHANGELOG.md > "$stage/changelog.gz"
gzip -9nc > "$stage/changelog.Debian.gz" <<END
g2g-agent ($DEB_VERSION-1) unstable; urgency=medium

  * What changed is in changelog.gz.

 -- g2g-agent maintainers <g2g-agent@users.noreply.github.com>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
cp packaging/lintian-overrides "$stage/lintian-overrides"

GOOS=linux packaging/third_party_licenses.sh | gzip -9nc > "$stage/third-party-licenses.gz"

package=$OUT/g2g-agent_${DEB_VERSION}-1_$DEB_ARCH.deb
$NFPM package --config packaging/nfpm.yaml --packager deb --target "$package" >&2
echo "$package"
