#!/usr/bin/env bash
# Checks the compose files without an engine: they name the version that is built, and compose reads them, where it is
# installed. `make test-compose` runs them.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

for file in deploy/compose/compose.yaml deploy/compose/compose.nvidia.yaml; do
    grep -q "TRAINYARD_VERSION:-$version}" $file || { echo "compose: $file does not name version $version" >&2; exit 1; }
done
if docker compose version >/dev/null 2>&1; then
    docker compose -f deploy/compose/compose.yaml config --quiet
    docker compose -f deploy/compose/compose.yaml -f deploy/compose/compose.nvidia.yaml config --quiet
    echo "compose: the files are right"
else
    echo "compose: no \`docker compose\` here, so only the version was checked"
fi
