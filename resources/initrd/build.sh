#!/usr/bin/env bash
# Builds the initrd of the test guest: an uncompressed cpio archive with our own init, and with --shell a busybox for
# people. Progress goes to stderr; stdout is one line, the archive's path under target/. A second run only prints it.
set -euo pipefail
cd "$(dirname "$0")"

die() {
    echo "initrd: $*" >&2
    exit 1
}

busybox=
case "${1-}" in
"") ;;
--shell)
    if [ ! -x /bin/busybox ]; then
        command -v apt-get >/dev/null || die "--shell needs /bin/busybox (Debian: busybox-static)"
        echo "initrd: installing busybox-static" >&2
        apt-get install -y --no-install-recommends busybox-static >&2 ||
            die "cannot install busybox-static; as root: apt-get update && apt-get install busybox-static"
    fi
    busybox=/bin/busybox
    ;;
*) die "usage: build.sh [--shell]" ;;
esac

command -v cargo >/dev/null || die "cargo is needed: https://rustup.rs"
inputs=$(
    cat build.sh Cargo.toml Cargo.lock .cargo/config.toml src/*.rs ${busybox:+"$busybox"} |
        { cat && rustc --version; } | sha256sum | cut -c1-16
)
mkdir -p ../../target/initrd
out=$(cd ../../target/initrd && pwd)
archive=$out/$inputs.cpio
if [ -e "$archive" ]; then
    echo "$archive"
    exit
fi

echo "initrd: building init" >&2
# RUSTFLAGS would replace the flags of .cargo/config.toml.
env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET \
    cargo build --release --locked --quiet >&2 || die "cargo build failed"
init=$out/cargo/x86_64-unknown-linux-gnu/release/init

# The archive's format is "newc": a header of fourteen fields in hexadecimal, the name, the contents, each padded to a
# multiple of four.
serial=0
pad() {
    head -c $(((4 - $1 % 4) % 4)) /dev/zero
}
# entry NAME MODE SIZE [MAJOR MINOR]: the header; SIZE bytes of contents and their padding must follow.
entry() {
    local name_size=$((${#1} + 1))
    serial=$((serial + 1))
    printf '070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\0' \
        $serial "$2" 0 0 1 0 "$3" 0 0 "${4:-0}" "${5:-0}" $name_size 0 "$1"
    pad $((110 + name_size))
}
program() {
    local size
    size=$(stat -L -c %s "$2")
    entry "$1" 0100755 "$size"
    cat "$2"
    pad "$size"
}
link() {
    entry "$1" 0120777 ${#2}
    printf %s "$2"
    pad ${#2}
}

partial=$(mktemp "$out/cpio.XXXXXX")
trap 'rm -f "$partial"' EXIT
{
    for directory in dev proc sys tmp; do
        entry $directory 040755 0
    done
    # What process 1 prints to, before /dev is mounted.
    entry dev/console 020600 0 5 1
    program init "$init"
    if [ -n "$busybox" ]; then
        entry bin 040755 0
        program bin/busybox "$busybox"
        link bin/sh busybox
        while read -r applet; do
            link "bin/$applet" busybox
        done < <("$busybox" --list | grep -vxF -e busybox -e sh)
    fi
    entry 'TRAILER!!!' 0 0
} >"$partial"
chmod 644 "$partial"
mv "$partial" "$archive"
echo "initrd: $(stat -c %s "$archive") bytes" >&2
echo "$archive"
