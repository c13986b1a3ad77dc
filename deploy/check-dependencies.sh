#!/usr/bin/env bash
# Licences, sources and double versions of what we build from, by deny.toml; and known holes, where the list of them can
# be had. Installs cargo-deny into .tools at its first run, built without optimisation: it is quick enough.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_DENY=0.20.2
DENY=.tools/deny/bin/cargo-deny

say() { printf 'dependencies: %s\n' "$*"; }

if [ "$($DENY --version 2>/dev/null)" != "cargo-deny $CARGO_DENY" ]; then
    say "installing cargo-deny $CARGO_DENY into .tools"
    cargo install --quiet --locked --debug --root .tools/deny --target-dir .tools/deny/target "cargo-deny@$CARGO_DENY"
    rm -rf .tools/deny/target
fi
$DENY check --deny unnecessary-skip licenses bans sources
if $DENY fetch db 2>/dev/null; then
    $DENY check --disable-fetch advisories
else
    say "advisories were NOT checked: https://github.com/RustSec/advisory-db cannot be reached from here"
fi
