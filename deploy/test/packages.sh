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

for suite in "$@"; do
    say "on $(system_of "$suite")"
    boot "$WORK/$suite" /test/packages-inside.sh \
        "$WORK/deb=/debs" "$WORK/deb-next=/debs-next" "$WORK/wheels=/wheels" deploy/test=/test
done
say "passed on: $(for suite in "$@"; do system_of "$suite"; done | paste -sd, | sed 's/,/, /g')"
