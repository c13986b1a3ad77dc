#!/usr/bin/env bash
# What an admin does with the packages, on a Debian 12 of its own: `make test-packages`. Needs root and Debian or Ubuntu.
# The first run fetches that Debian (about 250 MB) and libtorch for the CPU (540 MB) into target/test-packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

WORK=target/test-packages
ROOT=$WORK/bookworm
WHEELS=$WORK/wheels
# What the packages depend on, so that nothing is fetched in the container.
PACKAGES=systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,adduser,redis-tools,libgomp1,libstdc++6,python3
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() { printf 'test-packages: %s\n' "$*"; }
fail() { printf 'test-packages: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || fail "needs root, for a container with systemd in it"
missing=()
for tool in debootstrap:debootstrap systemd-nspawn:systemd-container patchelf:patchelf pip3:python3-pip; do
    command -v "${tool%:*}" >/dev/null || missing+=("${tool#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$WORK"
if [ "$(cat "$WORK/bookworm.packages" 2>/dev/null)" != "$PACKAGES" ]; then
    say "fetching a Debian 12 into $ROOT, once"
    rm -rf "$ROOT"
    # It mounts /proc there; not in this machine's own mounts.
    unshare --mount debootstrap --variant=minbase --include="$PACKAGES" bookworm "$ROOT" "$MIRROR" >"$WORK/debootstrap.log" ||
        fail "debootstrap failed, see $WORK/debootstrap.log"
    rm -rf "$ROOT"/var/cache/apt/archives/*.deb
    echo "$PACKAGES" >"$WORK/bookworm.packages"
fi
setup=deploy/deb/trainyard-trainer/trainyard-setup-libtorch
if ! TRAINYARD_LIBTORCH_LOCKS=deploy/libtorch python3 $setup cpu --download "$WHEELS" >"$WORK/wheels.log" 2>&1; then
    cat "$WORK/wheels.log" >&2
    fail "libtorch for the CPU cannot be fetched"
fi

say "building packages of two versions"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
VERSION=$version deploy/deb/build.sh "$WORK/deb" >/dev/null
VERSION=$version+1 deploy/deb/build.sh "$WORK/deb-next" >/dev/null

unshare --mount --pid --fork --kill-child --mount-proc deploy/test/boot.sh "$ROOT" /test/packages-inside.sh \
    "$WORK/deb=/debs" "$WORK/deb-next=/debs-next" "$WHEELS=/wheels" deploy/test=/test
say "passed"
