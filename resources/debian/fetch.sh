#!/usr/bin/env bash
# Fetches a kernel as people have it, for tests: the bzImage of Debian's current cloud kernel, out of its package, which is
# not installed. Progress goes to stderr; stdout is one line, the path of the vmlinuz under target/, which is named by the
# package's version. A run that finds nothing newer only prints the path.
set -euo pipefail
cd "$(dirname "$0")"

meta=linux-image-cloud-amd64

say() {
    echo "debian: $*" >&2
}
die() {
    say "$*"
    exit 1
}

for tool in apt-get apt-cache dpkg-deb flock; do
    command -v $tool >/dev/null || die "$tool is needed (Debian or a derivative)"
done
mkdir -p ../../target/debian
out=$(cd ../../target/debian && pwd)
log=$out/apt.log

# Tests may ask at the same time: one fetches, the others wait for it.
exec 9>"$out/lock"
flock -n 9 || say "another run is fetching; waiting for it"
flock 9

# The package that the meta package stands for now, as NAME=VERSION.
current() {
    apt-cache show --no-all-versions $meta 2>>"$log" 9>&- |
        sed -n 's/^Depends: \(linux-image-[^ ,]*\) (= \([^)]*\)).*/\1=\2/p'
}
: >"$log"
package=$(current || true)
if [ -z "$package" ]; then
    say "updating the list of packages"
    apt-get update >>"$log" 2>&1 9>&- || die "cannot update the list of packages; as root: apt-get update"
    package=$(current) && [ -n "$package" ] || die "Debian offers no $meta: $(tail -n 1 "$log")"
fi

vmlinuz=${package#linux-image-}
vmlinuz=$out/vmlinuz-${vmlinuz/=/_}
if [ -e "$vmlinuz" ]; then
    echo "$vmlinuz"
    exit
fi

folder=$(mktemp -d "$out/fetch.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
say "downloading $package"
apt-get download "$package" >>"$log" 2>&1 9>&- ||
    { apt-get update && apt-get download "$package"; } >>"$log" 2>&1 9>&- ||
    die "cannot download $package: $(tail -n 1 "$log")"
dpkg-deb -x ./*.deb . || die "cannot unpack $package; is there 200 MB free in $out?"
mv boot/vmlinuz-* "$vmlinuz" || die "there is no kernel in $package"
say "$(stat -c %s "$vmlinuz") bytes"
echo "$vmlinuz"
