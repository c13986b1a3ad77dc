#!/usr/bin/env bash
# Services without packages, on a Debian 12 of their own: `make test-setup`. Needs root, Debian or Ubuntu, and the wheel.
# The first run fetches that Debian (about 300 MB), and libtorch for the CPU (540 MB) unless it is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
TEST=test-setup
# shellcheck source=deploy/test/prepare.sh
. deploy/test/prepare.sh
ROOT=$WORK/bookworm-bare
WHEEL=$(ls target/wheel/trainyard-*-manylinux_*.whl 2>/dev/null) || fail "there is no wheel; run 'make wheel' first"

need debootstrap:debootstrap systemd-nspawn:systemd-container patchelf:patchelf pip3:python3-pip
system bookworm "$ROOT" dbus-user-session,libpam-systemd,redis-server,python3-venv
fetch_wheels
# What the client needs, for Debian 12's Python: nothing is fetched in the container.
mkdir -p "$WORK/client"
rm -f "$WORK"/client/trainyard-*.whl
pip3 download --quiet --disable-pip-version-check --only-binary=:all: --python-version=3.11 --dest "$WORK/client" "$WHEEL" ||
    fail "pip cannot fetch what the wheel needs"

boot "$ROOT" /repository/deploy/test/setup-inside.sh "$WORK/client=/client" "$WORK/wheels=/wheels" \
    deploy=/repository/deploy docs=/repository/docs
say "passed"
