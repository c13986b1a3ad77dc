#!/usr/bin/env bash
# Runs every benchmark; prints `name value unit` lines and keeps them in target/bench/figures.json.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/bench
lines=target/bench/figures.txt
cargo bench --locked --workspace --bench placement --bench submit --bench takeover --bench load --bench loader --bench step --bench fed_step --bench validation --bench idle 2>target/bench/log.txt | grep -E '^[A-Za-z0-9_.:/-]+ -?[0-9][0-9.e+-]* [^ ]+$' | tee $lines
awk 'BEGIN { print "[" } { printf "%s  {\"name\": \"%s\", \"value\": %s, \"unit\": \"%s\"}", (NR > 1 ? ",\n" : ""), $1, $2, $3 }
     END { print "\n]" }' $lines >target/bench/figures.json
