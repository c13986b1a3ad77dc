#!/usr/bin/env bash
# Starts the head node of compose.yaml for real, trains a job on it and stops it, with a Docker engine of its own.
# As root, on Debian 12. Usage: test.sh IMAGE.tar BIN_DIR: the image with the flavour cpu, and the folder with `yard`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'compose: %s\n' "$*" >&2; exit 1; }

if [ -z "${COMPOSE:-}" ]; then exec "$here/engine.sh" "$1" "$0" "$@"; fi

bin=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compose() { "$COMPOSE" --file "$here/compose.yaml" "$@"; }
# The container's own `yard`, which logs in once: what the document says.
# Runs the commands of the document as a reader types them.
documented() {
    local commands
    commands=$("$here/../documented.sh" "$here/../../docs/how-to/run-with-containers.md" "$1")
    (
        if [ "$1" = up ]; then cd "$here/../.."; else cd "$here"; fi
        docker() { shift && "$COMPOSE" "$@"; }
        eval "$commands"
    )
}
yard() { compose exec -T scheduler yard "$@"; }
field() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

export TRAINYARD_DATA=$work/data
mkdir -p "$work/home"
"$bin/yard" demo-data "$work/data/shapes" >/dev/null
train=(train /data/shapes/data.yaml --model yolov8n --device cpu --imgsz 64 --batch 16 --workers 1)

say "the files are right"
compose config --quiet
"$COMPOSE" --file "$here/compose.yaml" --file "$here/compose.nvidia.yaml" config | grep -q 'driver: nvidia' ||
    fail "compose.nvidia.yaml asks for no GPU"

say "up"
documented up 2>&1 | tail -n 4
compose ps --all --format '{{.Service}}: {{.Status}}'

say "log in"
documented login

say "a job trains"
documented train 2>/dev/null | tail -n 2
documented join | grep -q '^ty1\.' || fail "the document's command prints no token"

say "trainers are confined, and the container lacks nothing for that"
if compose logs agent | grep 'landlock='; then fail "the agent cannot hold its trainers"; fi

say "the agent leaves with a checkpoint when it is stopped, and the job goes on"
job=$(yard "${train[@]}" --epochs 6)
until yard job "$job" -o json | grep -q '"epoch": *[1-9]'; do sleep 0.3; done
compose restart --timeout 120 agent 2>/dev/null
compose up --detach --wait 2>/dev/null
yard watch "$job" >/dev/null || fail "the job failed: $(yard job "$job")"
yard job "$job" | tail -n 6
attempts=$(yard job "$job" -o json | field "['attempts'].__len__()")
[ "$attempts" = 2 ] || fail "the job took $attempts attempts, not 2"

say "down and up again: the queue is still there"
compose down 2>/dev/null
compose up --detach --wait 2>/dev/null
yard jobs | grep -c SUCCEEDED | grep -qx 2 || fail "the jobs are gone: $(yard jobs)"
compose down --volumes 2>/dev/null
echo "compose: fine"
