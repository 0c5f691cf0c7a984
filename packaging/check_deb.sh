#!/usr/bin/env bash
# Builds the Debian package and looks at it as an operator's machine would: what is
# in it, what lintian says; then installs it into an empty root, runs it, upgrades,
# removes and purges it, and wants nothing of it to be left. Nothing outside a
# directory of its own, and bin/, is touched. Skips itself without dpkg, and lintian
# where that is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v dpkg-deb >/dev/null; then
	[ "${G2GTEST_REQUIRE_TOOLS:-}" != 1 ] || { echo "check_deb: there is no dpkg-deb" >&2; exit 1; }
	echo "check_deb: skipped, there is no dpkg-deb"
	exit 0
fi

# dpkg gives files to root: without being root, be it in a namespace.
if [ "$(id -u)" != 0 ]; then
	exec unshare --user --map-root-user "$0" "$@"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "check_deb: $*" >&2; exit 1; }
say() { echo "-- $*"; }

say "build"
package=$(OUT=$work VERSION=v0.0.1 packaging/build_deb.sh)
newer=$(OUT=$work VERSION=v0.0.2-rc.1 packaging/build_deb.sh)
[ "$(dpkg-deb --field "$newer" Version)" = 0.0.2~rc.1-1 ] || fail "v0.0.2-rc.1 became $(dpkg-deb --field "$newer" Version)"

say "contents"
dpkg-deb --info "$package"
contents=$(dpkg-deb --contents "$package")
for want in \
	'-rwxr-xr-x root/root .* ./usr/bin/g2g-agent' \
	'-rw-r--r-- root/root .* ./lib/systemd/system/g2g-agent.service' \
	'-rw-r--r-- root/root .* ./etc/g2g-agent/config.yaml' \
	'drwx------ root/root .* ./etc/g2g-agent/credentials/' \
	'-rw-r--r-- root/root .* ./usr/share/man/man1/g2g-agent.1.gz' \
	'-rw-r--r-- root/root .* ./usr/share/doc/g2g-agent/copyright' \
	'-rw-r--r-- root/root .* ./usr/share/doc/g2g-agent/third-party-licenses.gz' \
	'-rw-r--r-- root/root .* ./usr/share/doc/g2g-agent/docs/operating.md' \
	'-rw-r--r-- root/root .* ./usr/share/doc/g2g-agent/examples/replay.yaml'; do
	grep -q -e "^$want\$" <<<"$contents" || fail "no line '$want' in the contents:
$contents"
done
[ "$(dpkg-deb --ctrl-tarfile "$package" | tar -xO ./conffiles)" = /etc/g2g-agent/config.yaml ] || fail "the config is not the one conffile"

if command -v lintian >/dev/null; then
	say "lintian"
	lintian --allow-root --fail-on error --suppress-tags no-manual-page --tag-display-limit 0 "$package" || fail "lintian has errors"
else
	say "lintian is not installed: skipped"
fi

# Scripts run outside the root with DPKG_ROOT set, and so leave this machine's
# systemd alone.
root=$work/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/triggers" "$root/etc/systemd/system" "$root/var/log"
: >"$root/var/lib/dpkg/status"
dpkg() {
	command dpkg --root="$root" --log="$work/dpkg.log" --force-script-chrootless --force-architecture --force-confold --force-bad-path --no-triggers "$@"
}
# What is in the root, but for dpkg's own notes.
listing() { (cd "$root" && find . -path ./var/lib/dpkg -prune -o -print | LC_ALL=C sort); }
listing >"$work/before"

say "install"
dpkg --install "$package"
version=$("$root/usr/bin/g2g-agent" version)
[[ $version == "g2g-agent 0.0.1 "* ]] || fail "the installed program says: $version"
"$root/usr/bin/g2g-agent" check --config "$root/etc/g2g-agent/config.yaml"
"$root/usr/bin/g2g-agent" replay --config "$root/usr/share/doc/g2g-agent/examples/replay.yaml" --out "$work/states.csv" >/dev/null
[ "$(wc -l <"$work/states.csv")" -gt 1000 ] || fail "the example gave $(wc -l <"$work/states.csv") lines"
if command -v man >/dev/null; then
	warnings=$(MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$root/usr/share/man/man1/g2g-agent.1.gz" 2>&1 >/dev/null)
	[ -z "$warnings" ] || fail "the man page: $warnings"
fi

say "upgrade, with a config of the operator's own"
echo '# mine' >>"$root/etc/g2g-agent/config.yaml"
echo secret >"$root/etc/g2g-agent/credentials/token"
mkdir -p "$root/var/lib/private/g2g-agent" "$root/etc/systemd/system/g2g-agent.service.d"
touch "$root/var/lib/private/g2g-agent/states.jsonl" "$root/etc/systemd/system/g2g-agent.service.d/override.conf"
ln -s private/g2g-agent "$root/var/lib/g2g-agent"
dpkg --install "$newer"
[[ $("$root/usr/bin/g2g-agent" version) == "g2g-agent 0.0.2-rc.1 "* ]] || fail "the upgrade did not replace the program"
grep -q '^# mine$' "$root/etc/g2g-agent/config.yaml" || fail "the upgrade lost the config"
[ "$(cat "$root/etc/g2g-agent/credentials/token")" = secret ] || fail "the upgrade lost a credential"

say "remove"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /lib/systemd/system/g2g-agent.service "$root/etc/systemd/system/multi-user.target.wants/g2g-agent.service"
dpkg --remove g2g-agent
[ ! -e "$root/usr/bin/g2g-agent" ] || fail "the program is still there"
[ ! -L "$root/etc/systemd/system/multi-user.target.wants/g2g-agent.service" ] || fail "the service is still enabled"
for kept in etc/g2g-agent/config.yaml etc/g2g-agent/credentials/token var/lib/private/g2g-agent/states.jsonl; do
	[ -e "$root/$kept" ] || fail "removing took $kept, which only a purge may"
done

say "purge"
dpkg --purge g2g-agent
rmdir "$root/etc/systemd/system/multi-user.target.wants" "$root/var/lib/private" 2>/dev/null || true # not ours
listing >"$work/after"
diff -u "$work/before" "$work/after" || fail "the purge left the above"
say "all passed"
