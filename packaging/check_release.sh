#!/usr/bin/env bash
# Builds the release of the last commit twice, in two folders that lie elsewhere and have
# other names, and wants the same bytes; then looks whether the version is one everywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "check_release: $*" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet . "$work/a"
git clone --quiet . "$work/a folder with a longer name"
[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "check_release: what is not committed is left out"
(umask 022 && cd "$work/a" && packaging/release.sh)
(umask 077 && cd "$work/a folder with a longer name" && TZ=Asia/Tokyo OUT=$work/second packaging/release.sh >/dev/null)
diff --recursive --brief "$work/a/dist" "$work/second" || fail "the two builds differ in the above"

cd "$work/a"
version=$(packaging/version.sh)
python=$(packaging/version.sh --python)
debian=$(packaging/version.sh --debian)
for platform in linux_amd64 linux_arm64 darwin_amd64 darwin_arm64; do
	for file in "g2g-agent_${version}_$platform.tar.gz" "g2g-agent_${version}_$platform.cdx.json"; do
		[ -s "dist/$file" ] || fail "there is no $file"
	done
	grep -q "\"version\": \"$version\"" "dist/g2g-agent_${version}_$platform.cdx.json" || fail "the SBOM of $platform has another version"
	tar -xOzf "dist/g2g-agent_${version}_$platform.tar.gz" "g2g-agent_${version}_$platform/g2g-agent" | grep -acF "$version" >/dev/null ||
		fail "the program for $platform has another version"
done
for arch in amd64 arm64; do
	[ -s "dist/g2g-agent_${debian}-1_$arch.deb" ] || fail "there is no Debian package of $debian for $arch"
done
[ "$(ls dist/*.whl | wc -l)" = 5 ] || fail "want five wheels"
[ "$(ls "dist/g2g_agent-$python"*.whl "dist/g2g_agent-$python.tar.gz" | wc -l)" = 6 ] || fail "want five wheels and a source distribution of $python"
(cd dist && sha256sum --check --quiet SHA256SUMS)
echo "== release-check: the same bytes twice, version $version"
