#!/usr/bin/env bash
# Builds the Debian packages from programs that are built already. Usage: BIN=target/release deploy/deb/build.sh [FOLDER]
# VERSION is the packages' version; that of Cargo.toml when unset. The packages run on Debian 12/13 and Ubuntu 22.04/24.04.
set -euo pipefail
cd "$(dirname "$0")/../.."

BIN=${BIN:-target/release}
OUT=${1:-target/deb}
VERSION=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
ARCH=$(dpkg --print-architecture)
# The C library of Ubuntu 22.04, the oldest of them.
OLDEST_GLIBC=2.35
# Where `trainyard-setup-libtorch` puts libtorch. Absolute: $ORIGIN would be beside the program.
LIBTORCH_AT=/var/lib/trainyard/libtorch/current
# The same packages from the same commit, whenever they are built.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

fail() { printf 'deb: %s\n' "$*" >&2; exit 1; }

need() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "needs $tool: apt-get install dpkg-dev binutils patchelf gzip"
    done
}

# The newest version of the C library that a program asks for.
glibc_of() { objdump -T "$1" | grep -oE 'GLIBC_[0-9.]+' | cut -d_ -f2 | sort -Vu | tail -n 1; }

# Installs a program without its debugging information.
program() {
    local from=$1 to=$2 oldest
    [ -x "$from" ] || fail "there is no $from; build it (make build), or name its folder: BIN=FOLDER"
    oldest=$(glibc_of "$from")
    [ "$(printf '%s\n' "$oldest" "$OLDEST_GLIBC" | sort -V | tail -n 1)" = "$OLDEST_GLIBC" ] ||
        fail "$from needs glibc $oldest, and Ubuntu 22.04 has $OLDEST_GLIBC; build it on Debian 12 or Ubuntu 22.04"
    install -D -m 755 "$from" "$to"
    strip --strip-unneeded --remove-section=.comment "$to"
}

# The packages of the shared libraries that a program needs, but for libtorch's, which no package has.
libraries() {
    local work
    work=$(mktemp -d)
    mkdir "$work/debian"
    printf 'Source: trainyard\n\nPackage: trainyard\nArchitecture: any\n' >"$work/debian/control"
    (cd "$work" && dpkg-shlibdeps -O --ignore-missing-info -l"$3" -e"$2" 2>"$work/log") |
        sed -n 's/^shlibs:Depends=//p' || { cat "$work/log" >&2; fail "cannot tell what $1 needs"; }
    rm -rf "$work"
}

compress() { find "$1" -type f -exec gzip -9n {} +; }

# What each package has beside its programs: copyright, changelog, and the maintainer's scripts.
finish() {
    local name=$1 root=$2 depends=$3 doc=$2/usr/share/doc/$1 from=deploy/deb/$1 size
    mkdir -p "$root/DEBIAN" "$doc"
    {
        printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: trainyard\n\n'
        printf 'Files: *\nCopyright: %s\nLicense: Expat\n' "$(sed -n 's/^Copyright (c) //p' LICENSE)"
        sed -e '1,/^Copyright/d' -e 's/^/ /' -e 's/^ $/ ./' LICENSE | sed '1d'
    } >"$doc/copyright"
    {
        printf 'trainyard (%s) unstable; urgency=medium\n\n  * Version %s.\n\n' "$VERSION" "$VERSION"
        printf ' -- %s  %s\n' "$MAINTAINER" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
    } >"$doc/changelog"
    compress "$doc/changelog"
    for script in postinst prerm postrm; do
        [ ! -e "$from/$script" ] || install -m 755 "$from/$script" "$root/DEBIAN/$script"
    done
    (cd "$root" && find etc -type f 2>/dev/null | sed 's|^|/|' | sort) >"$root/DEBIAN/conffiles" || true
    [ -s "$root/DEBIAN/conffiles" ] || rm "$root/DEBIAN/conffiles"
    size=$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
    sed -e "s|@VERSION@|$VERSION|" -e "s|@ARCH@|$ARCH|" -e "s|@DEPENDS@|$depends|" -e "s|@SIZE@|$size|" \
        -e "s|@MAINTAINER@|$MAINTAINER|" "$from/control" >"$root/DEBIAN/control"
    (cd "$root" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    # The mode of what was copied is the builder's.
    find "$root" -type d -exec chmod 755 {} +
    dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$OUT/${name}_${VERSION}_$ARCH.deb" >/dev/null
    printf 'deb: %s\n' "$OUT/${name}_${VERSION}_$ARCH.deb"
}

override() { install -D -m 644 /dev/stdin "$1/usr/share/lintian/overrides/$2"; }

MAINTAINER='The Trainyard developers <maintainers@trainyard.invalid>'

scheduler() {
    local root=$WORK/scheduler
    program "$BIN/trainyard-scheduler" "$root/usr/bin/trainyard-scheduler"
    install -D -m 644 deploy/systemd/trainyard-scheduler.service -t "$root/usr/lib/systemd/system"
    install -D -m 640 deploy/deb/trainyard-scheduler/scheduler.toml -t "$root/etc/trainyard"
    "$BIN/trainyard-scheduler" manual --section 8 "$root/usr/share/man/man8"
    # The program of `redis-tools` is the server when it is called by this name. The package `redis-server` would start a
    # server of its own, which nobody needs.
    mkdir -p "$root/usr/lib/trainyard"
    ln -s ../../bin/redis-check-rdb "$root/usr/lib/trainyard/redis-server"
    compress "$root/usr/share/man"
    finish trainyard-scheduler "$root" "$(libraries scheduler "$root/usr/bin/trainyard-scheduler" /nowhere)"
}

agent() {
    local root=$WORK/agent
    program "$BIN/trainyard-agent" "$root/usr/bin/trainyard-agent"
    install -D -m 644 deploy/systemd/trainyard-agent.service -t "$root/usr/lib/systemd/system"
    install -D -m 644 deploy/deb/trainyard-agent/agent.toml -t "$root/etc/trainyard"
    install -D -m 644 deploy/deb/trainyard-agent/needrestart.conf "$root/etc/needrestart/conf.d/trainyard-agent.conf"
    "$BIN/trainyard-agent" manual --section 8 "$root/usr/share/man/man8"
    compress "$root/usr/share/man"
    finish trainyard-agent "$root" "$(libraries agent "$root/usr/bin/trainyard-agent" /nowhere)"
}

trainer() {
    local root=$WORK/trainer program libtorch
    program=$root/usr/bin/trainyard-trainer
    program "$BIN/trainyard-trainer" "$program"
    libtorch=$(patchelf --print-rpath "$program"):${LD_LIBRARY_PATH:-}
    libtorch=$(tr ':' '\n' <<<"$libtorch" | while read -r folder; do
        [ -z "$folder" ] || [ ! -e "$folder/libtorch_cpu.so" ] || { echo "$folder"; break; }
    done)
    [ -n "$libtorch" ] || fail "the trainer's libtorch is not found; name its folder in LD_LIBRARY_PATH"
    "$BIN/trainyard-trainer" manual "$root/usr/share/man/man1"
    install -D -m 644 deploy/deb/trainyard-trainer/trainyard-setup-libtorch.8 -t "$root/usr/share/man/man8"
    compress "$root/usr/share/man"
    install -D -m 755 deploy/deb/trainyard-trainer/trainyard-setup-libtorch -t "$root/usr/sbin"
    install -D -m 644 deploy/libtorch/*.lock -t "$root/usr/share/trainyard/libtorch"
    local depends
    depends=$(libraries trainer "$program" "$libtorch")
    patchelf --set-rpath "$LIBTORCH_AT/torch/lib" "$program"
    override "$root" trainyard-trainer <<<"trainyard-trainer: custom-library-search-path"
    finish trainyard-trainer "$root" "$depends"
}

cli() {
    local root=$WORK/cli
    program "$BIN/yard" "$root/usr/bin/yard"
    "$BIN/yard" manual "$root/usr/share/man/man1"
    compress "$root/usr/share/man"
    "$BIN/yard" completions bash | install -D -m 644 /dev/stdin "$root/usr/share/bash-completion/completions/yard"
    "$BIN/yard" completions zsh | install -D -m 644 /dev/stdin "$root/usr/share/zsh/vendor-completions/_yard"
    "$BIN/yard" completions fish | install -D -m 644 /dev/stdin "$root/usr/share/fish/vendor_completions.d/yard.fish"
    finish trainyard-cli "$root" "$(libraries yard "$root/usr/bin/yard" /nowhere)"
}

need dpkg-deb dpkg-shlibdeps strip objdump patchelf gzip
umask 022
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$OUT"
rm -f "$OUT"/trainyard-*.deb
scheduler
agent
trainer
cli
