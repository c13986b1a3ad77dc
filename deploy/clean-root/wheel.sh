#!/usr/bin/env bash
# The wheel in fresh Debian and Ubuntu systems: installs it with pip, starts a cluster, trains on the CPU, fetches the weights by
# `yard` and by the Python client. Needs root, debootstrap and a network. Usage: wheel.sh [SUITE...]
#
# Users get torch by the extra [trainer]. Its dependencies on PyPI are 4 GB of CUDA, which no CPU needs. So here torch
# is installed without them, but for the two libraries that its CPU part is linked against: as deploy/setup.sh does.
set -euo pipefail
# A failure inside of $(...) is one, too.
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."
source deploy/clean-root/root.sh

version() { sed -n "s/^$1=//p" deploy/setup.sh; }
TORCH=$(version TORCH)
LIBRARIES="nvidia-cuda-runtime==$(version CUDA_RUNTIME) nvidia-cuda-cupti==$(version CUDA_CUPTI)"
# What pip has fetched once: torch is large, and differs by version of Python only.
CACHE=$ROOTS/pip-cache

wheels=(target/wheel/*-manylinux_*.whl)
[ -f "${wheels[0]}" ] || { echo "there is no wheel; run 'make wheel' first" >&2; exit 1; }
[ ${#wheels[@]} -eq 1 ] || { echo "there are several wheels with programs in target/wheel; remove all but one" >&2; exit 1; }
client=(target/wheel/*-any.whl)
[ -f "${client[0]}" ] || { echo "the client's wheel is not in target/wheel; run 'make wheel'" >&2; exit 1; }

for suite in "${@:-bookworm trixie jammy noble}"; do
    for one in $suite; do
        echo "== $one"
        root=$(fresh_root "$one" python3-venv,ca-certificates)
        mkdir -p "$CACHE" "$root/test/cache"
        cp "${wheels[0]}" "${client[0]}" deploy/clean-root/inside-wheel.sh deploy/clean-root/inside_wheel.py "$root/test/"
        # pip's own variables, so that it finds packages as it does here.
        mapfile -t variables < <(env | grep -E '^(PIP_(INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT|PROXY)|https?_proxy)=' || true)
        cp -r "$CACHE/." "$root/test/cache/"
        in_root "$root" env -i "${variables[@]}" PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LC_ALL=C.UTF-8 \
            TORCH="$TORCH" LIBRARIES="$LIBRARIES" PIP_CACHE_DIR=/test/cache PIP_DISABLE_PIP_VERSION_CHECK=1 \
            PIP_CERT=/etc/ssl/certs/ca-certificates.crt bash /test/inside-wheel.sh
        cp -r "$root/test/cache/." "$CACHE/"
        rm -rf "$root"
    done
done
echo "the wheel works in: ${*:-bookworm trixie jammy noble}"
