#!/usr/bin/env bash
# What wheel.sh does inside of a fresh system, as root of that system.
set -euo pipefail
cd /test

step() { printf -- '-- %s\n' "$*"; }
# A command must fail, and say something on one line: refused TEXT COMMAND...
refused() {
    local text=$1 said
    shift
    if said=$("$@" 2>&1); then echo "this should have failed: $*" >&2; exit 1; fi
    grep -qF -- "$text" <<<"$said" || { printf '%s said:\n%s\nand not: %s\n' "$*" "$said" "$text" >&2; exit 1; }
}

step "the wheel without programs: its client, and one line from yard"
python3 -m venv client
client/bin/pip install -q ./trainyard-*-any.whl
client/bin/python -c 'import trainyard; print(trainyard.__version__)'
refused 'the programs are for Linux on x86-64' client/bin/yard --version

step "pip installs the wheel and what its client needs"
python3 -m venv venv
venv/bin/pip install -q ./trainyard-*-manylinux_*.whl
export PATH=$PWD/venv/bin:$PATH
yard --version
yard demo-data data/shapes --train 8 --val 4 --size 64
trainyard-agent config >/dev/null

step "without torch, and then without Redis, it says what to do"
refused 'run `pip install "trainyard[trainer]"`' yard up --data-dir cluster --data-root data
refused 'run `pip install "trainyard[trainer]"`' trainyard-trainer info --libtorch
# The wheel asks for this very version.
grep -qF "Requires-Dist: torch==$TORCH; extra == 'trainer'" venv/lib/python3*/site-packages/trainyard-*.dist-info/METADATA
# shellcheck disable=SC2086
venv/bin/pip install -q --no-deps "torch==$TORCH" $LIBRARIES
refused 'apt install redis-server' yard up --data-dir cluster --data-root data
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null

step "a cluster on one machine"
# The trainer is told nothing of where libtorch is: it finds what pip has put beside it.
trainyard-trainer info --libtorch
yard up --data-dir cluster --data-root data --cpu-slots 1 >up.log 2>&1 &
cluster=$!
trap 'kill -TERM $cluster 2>/dev/null; wait $cluster 2>/dev/null || true' EXIT
until yard agents 2>/dev/null | grep -q CONNECTED; do
    kill -0 $cluster 2>/dev/null || { cat up.log >&2; exit 1; }
    sleep 0.2
done

step "a job by yard"
job=$(yard train data/shapes/data.yaml --device cpu --epochs 2 --imgsz 64 --batch 8 --workers 1)
yard watch "$job"
yard artifacts "$job" get weights/best.safetensors -d by-yard

step "a job by the client"
python inside_wheel.py "$job"
