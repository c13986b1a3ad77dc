#!/usr/bin/env bash
# Builds the image with the flavour cpu out of this machine's libtorch, and writes it into a file, for tests that run it.
# As root, on Debian 12. Usage: for_tests.sh BIN_DIR FILE.tar
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/debian.sh
. deploy/debian.sh
bin=$1 file=$2
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

[ "$(id -u)" = 0 ] || { echo "images: building images for tests needs root" >&2; exit 1; }
install_without_services podman buildah runc debootstrap
# What podman asks for may be above those that this machine lets root set; and crun wants control groups of version 2 only.
settings=$(mktemp)
trap 'rm -f "$settings"' EXIT
cat >"$settings" <<X
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
X
export CONTAINERS_CONF=$settings
podman pull --quiet docker.io/library/debian:bookworm-slim >/dev/null 2>&1 || deploy/images/base.sh podman
TRAINYARD_ENGINE=podman TRAINYARD_IMAGE_BIN=$bin TRAINYARD_LIBTORCH=$(readlink -f .libtorch/torch/..) deploy/images/build.sh cpu
rm -f "$file"
podman save --quiet --output "$file" "localhost/trainyard:$version-cpu"
