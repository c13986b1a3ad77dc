#!/usr/bin/env bash
# Makes the image docker.io/library/debian:bookworm-slim out of Debian's packages, for machines that reach no registry:
# then the very same Containerfile is built there. The file is kept. Usage: base.sh ENGINE, such as `podman` or `docker`.
set -euo pipefail
# shellcheck source=deploy/debian.sh
. "$(dirname "$0")/../debian.sh"
engine=$1
name=docker.io/library/debian:bookworm-slim
cache=${TRAINYARD_IMAGE_CACHE:-/var/cache/trainyard-images}

bootstrap() {
    local root
    root=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder is known now
    trap "rm -rf '$root'" EXIT
    debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$(mirror)" >"$cache/debootstrap.log" 2>&1 ||
        { tail -n 20 "$cache/debootstrap.log" >&2; exit 1; }
    tar -C "$root" --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' \
        -cf "$cache/bookworm-slim.tar.new" .
    mv "$cache/bookworm-slim.tar.new" "$cache/bookworm-slim.tar"
}

if "$engine" image inspect "$name" >/dev/null 2>&1; then exit 0; fi
mkdir -p "$cache"
[ -e "$cache/bookworm-slim.tar" ] || bootstrap
"$engine" import "$cache/bookworm-slim.tar" "$name" >/dev/null
