#!/usr/bin/env bash
# Builds the image trainyard:VERSION-FLAVOUR with Podman or Docker, and a list of what is in it. Usage:
#   build.sh [cpu|cu130]...        both, if none is named
# TRAINYARD_ENGINE         podman or docker; else the first of them that works
# TRAINYARD_IMAGE          the image's name without a tag [localhost/trainyard]
# TRAINYARD_IMAGE_BIN      the folder with the four programs [target/release]
# TRAINYARD_BUILD_NETWORK  the network of the build, such as `host`, where the engine's own does not reach the packages
# TRAINYARD_LIBTORCH       a folder with torch/lib and nvidia/ (a Python's site-packages), instead of wheels from PyPI
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/images
name=${TRAINYARD_IMAGE:-localhost/trainyard}
bin=${TRAINYARD_IMAGE_BIN:-target/release}
programs=(trainyard-scheduler trainyard-agent trainyard-trainer yard)
out=target/images

fail() { printf 'images: %s\n' "$*" >&2; exit 1; }

# The engine that answers: a client without an engine behind it is none.
engine() {
    local candidate
    for candidate in ${TRAINYARD_ENGINE:-podman docker}; do
        if "$candidate" info >/dev/null 2>&1; then echo "$candidate"; return; fi
    done
    if [ -n "${TRAINYARD_ENGINE:-}" ]; then fail "TRAINYARD_ENGINE is \`$TRAINYARD_ENGINE\`, and \`$TRAINYARD_ENGINE info\` fails"; fi
    fail "needs podman or docker, and neither answers: install podman, or start Docker's engine"
}

version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

# A folder with nothing but what goes into the image: the engine is not handed all of target/.
lay_out() {
    local flavour=$1 context=$2 program
    rm -rf "$context"
    mkdir -p "$context/bin"
    cp "$here/Containerfile" "$context/"
    if [ -n "${TRAINYARD_LIBTORCH:-}" ]; then
        "$here/libtorch.py" pick "$flavour" "$TRAINYARD_LIBTORCH" "$context/libtorch"
    else
        "$here/libtorch.py" fetch "$flavour" "$out/libtorch-$flavour"
        cp -al "$out/libtorch-$flavour" "$context/libtorch"
    fi
    for program in "${programs[@]}"; do
        [ -x "$bin/$program" ] || fail "$bin/$program is missing: run \`make build\` first, or set TRAINYARD_IMAGE_BIN"
        strip --strip-debug -o "$context/bin/$program" "$bin/$program"
        chmod 755 "$context/bin/$program"
    done
}

build() {
    local engine=$1 flavour=$2 version=$3 context=$out/context-$2 tag=$name:$3-$2 revision
    revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
    lay_out "$flavour" "$context"
    "$engine" build --quiet --tag "$tag" --file "$context/Containerfile" \
        ${TRAINYARD_BUILD_NETWORK:+"--network=$TRAINYARD_BUILD_NETWORK"} \
        --build-arg "VERSION=$version" --build-arg "FLAVOUR=$flavour" --build-arg "REVISION=$revision" "$context" >/dev/null
    rm -rf "$context"
    "$engine" run --rm --network none "$tag" cat /usr/share/trainyard/packages.tsv >"$out/packages-$flavour.tsv"
    "$here/sbom.py" --version "$version-$flavour" --crates Cargo.lock --wheels "$here/../libtorch/$flavour.lock" \
        --packages "$out/packages-$flavour.tsv" >"$out/trainyard-$version-$flavour.cdx.json"
    echo "$tag: $(($("$engine" image inspect --format '{{.Size}}' "$tag") / 1000000)) MB; what is in it: $out/trainyard-$version-$flavour.cdx.json"
}

[ $# -gt 0 ] || set -- cpu cu130
for flavour in "$@"; do
    [ -e "$here/../libtorch/$flavour.lock" ] || fail "there is no flavour \`$flavour\`; there are cpu and cu130"
done
engine=$(engine)
mkdir -p "$out"
for flavour in "$@"; do build "$engine" "$flavour" "$(version)"; done
