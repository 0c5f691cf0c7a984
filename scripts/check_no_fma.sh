#!/usr/bin/env bash
# Fails if the compiler fuses a multiplication and an addition in a package
# whose results must have the same bits on every processor.
#
# Go may compile x*y + z to one instruction with one rounding on arm64 (and
# ppc64, s390x, riscv64), which changes the last bit; float64(x*y) + z forbids
# it. This compiles the packages for arm64 and looks for those instructions.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(internal/nprand internal/npmath datacenter augment workload mlenergy buffer loadgen rig recording agent)

# Files whose results may differ in the last bits, each with the reason:
#   [workload/example.go]="tolerance 1e-9: …"
declare -A allowed=(
)

module=$(go list -m)
present=()
for package in "${packages[@]}"; do
	if compgen -G "$package/*.go" >/dev/null; then
		present+=("./$package")
	fi
done

listing=$(mktemp)
trap 'rm -f "$listing"' EXIT
# -trimpath names every file by its import path, so the standard library's
# inlined functions are told from ours.
if ! GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -gcflags=-S "${present[@]}" >"$listing" 2>&1; then
	grep -v $'^\t' "$listing" | tail -n 20 >&2
	echo "check_no_fma: the packages do not compile for arm64" >&2
	exit 1
fi
# Without a listing there is nothing to find, and the check would hold nothing.
for package in "${present[@]}"; do
	if ! grep -qF "$module/${package#./}." "$listing"; then
		echo "check_no_fma: the compiler listed no instructions of $package" >&2
		exit 1
	fi
done

failed=0
while read -r place instruction; do
	file=${place%:*}
	if [[ -n ${allowed[$file]:-} ]]; then
		echo "$place: $instruction, allowed: ${allowed[$file]}"
		continue
	fi
	echo "$place: $instruction: write the product as float64(x*y), also in a function inlined here"
	failed=1
done < <(
	sed -nE "s|^.*\(${module//./\\.}/([^)]*\.go:[0-9]+)\)[[:space:]]+(FN?M(ADD\|SUB)[SD])[[:space:]].*|\1 \2|p" "$listing" | sort -u
)
if ((failed)); then
	exit 1
fi
echo "no fused multiply-add in ${present[*]}"
