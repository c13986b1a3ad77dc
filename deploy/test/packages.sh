#!/usr/bin/env bash
# What an admin does with the packages, on systems of their own: `make test-packages`. Needs root and Debian or Ubuntu.
# Usage: packages.sh [SUITE…]     of bookworm, trixie, jammy and noble; all of them, if none is named
# The first run fetches the systems (about 250 MB each) and libtorch for the CPU (540 MB) into target/test-packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
TEST=test-packages
# shellcheck source=deploy/test/prepare.sh
. deploy/test/prepare.sh
[ $# -gt 0 ] || set -- bookworm trixie jammy noble
for suite in "$@"; do system_of "$suite" >/dev/null; done

need debootstrap:debootstrap systemd-nspawn:systemd-container patchelf:patchelf pip3:python3-pip
for suite in "$@"; do system "$suite" "$WORK/$suite"; done
fetch_wheels
say "building packages of two versions"
build_packages deb
build_packages deb-next +1

say "a download that the disk has no room for"
# shellcheck disable=SC2016  # it is the inner shell's
if said=$(unshare --mount sh -euc 'mount -t tmpfs -o size=100m none /mnt
    TRAINYARD_LIBTORCH_LOCKS=deploy/libtorch PIP_NO_INDEX=1 PIP_FIND_LINKS=$1 \
        python3 deploy/deb/trainyard-trainer/trainyard-setup-libtorch cpu --download /mnt' sh "$WORK/wheels" 2>&1); then
    fail "it has fitted: $said"
fi
[ "$(tail -n 1 <<<"$said")" = "trainyard-setup-libtorch: the disk of /mnt is full: make room for 2 GB, and run this again" ] ||
    fail "it said: $said"
[ "$(wc -l <<<"$said")" = 2 ] || fail "that is more than a message: $said"

for suite in "$@"; do
    say "on $(system_of "$suite")"
    boot "$WORK/$suite" /test/packages-inside.sh \
        "$WORK/deb=/debs" "$WORK/deb-next=/debs-next" "$WORK/wheels=/wheels" deploy/test=/test
done
say "on a disk that is full in the middle of it, on $(system_of "$1")"
DISK=2G boot "$WORK/$1" /test/full-disk-inside.sh \
    "$WORK/deb=/debs" "$WORK/deb-next=/debs-next" "$WORK/wheels=/wheels" deploy/test=/test
say "passed on: $(for suite in "$@"; do system_of "$suite"; done | paste -sd, | sed 's/,/, /g')"
