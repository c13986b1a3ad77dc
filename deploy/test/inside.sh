# shellcheck shell=bash
# What tests inside of a system of their own share. To be sourced.

step() { printf '\n--- %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    systemctl --no-pager --full status trainyard-scheduler trainyard-agent >&2 || true
    journalctl --no-pager -o cat -u trainyard-scheduler -u trainyard-agent -n 40 >&2 || true
    exit 1
}
# Waits until a command succeeds.
until_true() {
    local what=$1 tries
    shift
    for tries in $(seq "${TRIES:-300}"); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "$what, after $tries tries: $*"
}
says() { grep -q -- "$1" <<<"$2" || fail "expected '$1' in: $2"; }
property() { systemctl show -P "$2" "$1"; }
logged() { journalctl --no-pager -o cat -u "$1" | grep -q -- "$2"; }
status_says() { property "$1" StatusText | grep -q -- "$2"; }
job_is() { yard job "$1" -o json | grep -q "\"state\": *\"$2\""; }
held_by() { stat -c %U:%a "$1"; }
