#!/usr/bin/env bash
# Builds all that a user installs into OUT (dist/), which is emptied: for Linux and macOS
# on x86-64 and arm64 an archive, an SBOM and a Python wheel each, for Linux Debian
# packages, the wheel and the source distribution without the program, what the container
# image is made of, and SHA256SUMS. The same commit, Go and Python give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-dist}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
find "$OUT" -mindepth 1 -delete

# Nothing of the builder's surroundings gets in.
export LC_ALL=C TZ=UTC GOFLAGS= GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 CGO_ENABLED=0
umask 022
VERSION=$(packaging/version.sh)
PYTHON_VERSION=$(VERSION=$VERSION packaging/version.sh --python)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export VERSION PYTHON_VERSION SOURCE_DATE_EPOCH
echo "== release $VERSION into $OUT"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

source packaging/python_build.sh
echo "-- Python packages without the program"
stage_python "$work/python"
build_wheel "$work/python" "$OUT"
(cd "$work/python" && "$python" -m hatchling build --target sdist --directory "$OUT" >&2)

# archive FOLDER FILE: the folder's parent is not named, nor who built it and when.
archive() {
	tar --create --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+w,go-w \
		--directory "$(dirname "$1")" "$(basename "$1")" | gzip -9n >"$2"
}

GOFLAGS=-modfile=tools/go.mod go build -trimpath -buildvcs=false -o "$work/cyclonedx-gomod" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

# Which Macs Go's programs run on, and that a static program runs on any Linux.
wheel_tag() {
	case "$1" in
	linux_amd64) echo manylinux_2_17_x86_64.musllinux_1_1_x86_64 ;;
	linux_arm64) echo manylinux_2_17_aarch64.musllinux_1_1_aarch64 ;;
	darwin_amd64) echo macosx_12_0_x86_64 ;;
	darwin_arm64) echo macosx_12_0_arm64 ;;
	esac
}

for platform in linux_amd64 linux_arm64 darwin_amd64 darwin_arm64; do
	export GOOS=${platform%_*} GOARCH=${platform#*_}
	echo "-- $platform"
	make --no-print-directory build VERSION="$VERSION" >&2
	name=g2g-agent_${VERSION}_$platform
	folder=$work/$name
	mkdir "$folder"
	install -m 755 bin/g2g-agent "$folder/g2g-agent"
	packaging/third_party_licenses.sh >"$folder/THIRD-PARTY-LICENSES"
	install -m 644 LICENSE README.md CHANGELOG.md packaging/g2g-agent.1 "$folder/"
	archive "$folder" "$OUT/$name.tar.gz"

	"$work/cyclonedx-gomod" app -json -licenses -std -noserial -notimestamp -main cmd/g2g-agent -output "$work/raw.json" . 2>"$work/sbom.log" ||
		{ cat "$work/sbom.log" >&2; exit 1; }
	"$python" packaging/sbom.py "$work/raw.json" "$folder/g2g-agent" "$VERSION" >"$OUT/$name.cdx.json"

	cp "$folder/THIRD-PARTY-LICENSES" "$work/python/LICENSE.third-party"
	build_wheel "$work/python" "$OUT" "$folder/g2g-agent" "$(wheel_tag "$platform")"

	if [ "$GOOS" = linux ]; then
		BINARY=$folder/g2g-agent OUT=$OUT packaging/build_deb.sh
		install -D -m 755 "$folder/g2g-agent" "$OUT/container/$platform/g2g-agent"
		install -m 644 LICENSE "$folder/THIRD-PARTY-LICENSES" "$OUT/container/"
	fi
done

(cd "$OUT" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
echo "== done"
cat "$OUT/SHA256SUMS"
