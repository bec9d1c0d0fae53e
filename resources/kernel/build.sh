#!/usr/bin/env bash
# Builds the Linux of the test guest: Debian's source of 6.1 with kvm-emulated-cpl0.patch and, over tinyconfig, the
# fragment `config`. Progress goes to stderr; stdout is one line, the path of the ELF vmlinux under target/, which is
# named by the hash of all inputs. The first run takes minutes and 1.5 GB for a while, a second only prints the path.
set -euo pipefail
cd "$(dirname "$0")"

package=linux-source-6.1
needed=("$package" flex bison bc libelf-dev)
patch=kvm-emulated-cpl0.patch

say() {
    echo "kernel: $*" >&2
}
die() {
    say "$*"
    exit 1
}

for tool in dpkg-query gcc make patch xz flock; do
    command -v $tool >/dev/null || die "$tool is needed (Debian or a derivative, with build-essential and xz-utils)"
done
mkdir -p ../../target/kernel
out=$(cd ../../target/kernel && pwd)

# Tests may ask at the same time: one builds, the others wait for it.
exec 9>"$out/lock"
flock -n 9 || say "another build is at work; waiting for it"
flock 9

version_of() {
    dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null | sed -n 's/^installed //p'
}
missing=()
for name in "${needed[@]}"; do
    [ -n "$(version_of "$name")" ] || missing+=("$name")
done
if [ ${#missing[@]} -gt 0 ]; then
    install=(apt-get install -y --no-install-recommends "${missing[@]}")
    [ "$(id -u)" = 0 ] || die "packages are missing; as root: ${install[*]}"
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive "${install[@]}" >"$out/apt.log" 2>&1 9>&- ||
        { apt-get update && DEBIAN_FRONTEND=noninteractive "${install[@]}"; } >"$out/apt.log" 2>&1 9>&- ||
        die "cannot install ${missing[*]}: $(tail -n 3 "$out/apt.log")"
fi

version=$(version_of "$package")
inputs=$({ cat build.sh config "$patch" && echo "$version" && gcc -dumpfullversion; } | sha256sum | cut -c1-16)
vmlinux=$out/vmlinux-$inputs
if [ -e "$vmlinux" ]; then
    echo "$vmlinux"
    exit
fi

tree=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$tree"' EXIT
say "unpacking $package $version"
tar -C "$tree" --strip-components=1 -xf /usr/src/$package.tar.xz || die "cannot unpack; is there 1.5 GB free in $out?"
patch -d "$tree" -p1 -s --no-backup-if-mismatch <"$patch" || die "$patch does not fit $version"

# Nothing of the machine that builds goes into the kernel.
export KBUILD_BUILD_USER=underlay KBUILD_BUILD_HOST=underlay KBUILD_BUILD_TIMESTAMP=@0 LC_ALL=C
log=$out/build.log
build() {
    make -C "$tree" ARCH=x86_64 "$@"
}
configure() {
    build tinyconfig && cd "$tree" && scripts/kconfig/merge_config.sh -m .config "$1" && build olddefconfig
}
say "configuring"
(configure "$PWD/config") >"$log" 2>&1 || die "cannot configure: $(tail -n 3 "$log")"
# What Kconfig does not take it drops in silence.
dropped=$(grep -E '^(# )?CONFIG_' config | grep -vxFf "$tree/.config") &&
    die "Linux does not take these lines of the fragment: $dropped"

say "building; $(grep -c '=[ym]$' "$tree/.config") options are on, about 1,000 files"
build -j"$(nproc)" vmlinux 2>&1 9>&- | tee "$log" |
    awk '/^  (CC|AS) / && ++files % 100 == 0 { print "kernel: " files " files" > "/dev/stderr" }' ||
    die "the build failed; see $log: $(grep -m 3 -E 'error|Error' "$log")"
mv "$tree/vmlinux" "$vmlinux"
say "$(stat -c %s "$vmlinux") bytes"
echo "$vmlinux"
