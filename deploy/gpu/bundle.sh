#!/usr/bin/env bash
# Puts what `make test-gpu` runs into target/gpu-bundle: stripped programs, golden data and the script. It needs neither
# a network nor cargo where it is run, but libtorch 2.13 with CUDA. Usage: bundle.sh [debug|release]
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${1:-release}
out=target/gpu-bundle
most_mib=60

option=$([ "$profile" = release ] && echo --release || true)
# The path of a test program or a benchmark is cargo's to say.
program() {
    cargo build $option --locked --workspace "$@" --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}
cargo build $option --locked --workspace --bin trainyard-trainer
tests=$(program --test gpu)
speeds=$(program --bench gpu_speed)
rm -rf "$out"
mkdir -p "$out/golden"
install -m 755 "target/$profile/trainyard-trainer" "$out/trainyard-trainer"
install -m 755 "$tests" "$out/gpu-tests"
install -m 755 "$speeds" "$out/gpu-speeds"
install -m 755 deploy/gpu/run.sh "$out/run.sh"
cp target/golden/{weights,loss_train}.safetensors target/golden/manifest.json "$out/golden/"
"$out/trainyard-trainer" info --libtorch | sed 's/.*"version":"\([0-9.]*\).*/\1/' >"$out/libtorch-version"
strip "$out"/trainyard-trainer "$out"/gpu-*
mib=$(du -sm "$out" | cut -f 1)
[ "$mib" -le "$most_mib" ] || { echo "the bundle has $mib MiB, more than $most_mib" >&2; exit 1; }
echo "target/gpu-bundle: $mib MiB; copy it to a machine with a GPU and start ./run.sh there"
