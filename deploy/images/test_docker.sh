#!/usr/bin/env bash
# Builds the image with Docker as well, by an engine of its own, and has it train a step. As root, on Debian 12.
# Usage: test_docker.sh BIN_DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

if [ -z "${COMPOSE:-}" ]; then exec deploy/compose/engine.sh - "$0" "$@"; fi

docker pull --quiet docker.io/library/debian:bookworm-slim >/dev/null 2>&1 || deploy/images/base.sh docker
TRAINYARD_ENGINE=docker TRAINYARD_BUILD_NETWORK=host TRAINYARD_IMAGE_BIN=$1 \
    TRAINYARD_LIBTORCH=$(readlink -f .libtorch/torch/..) deploy/images/build.sh cpu
docker run --rm --network none "localhost/trainyard:$version-cpu" trainyard-trainer self-test --device cpu
echo "docker build: fine"
