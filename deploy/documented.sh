#!/usr/bin/env bash
# Prints the commands of a document that a test runs, so that the test and the reader type the same.
# Usage: documented.sh DOCUMENT NAME, for the block whose mark ends with `runs it as NAME`.
set -euo pipefail
document=$1 name=$2
text=$(awk -v mark="runs it as $name -->" '
    index($0, mark) { found = 1; next }
    found && /^```sh$/ { inside = 1; next }
    inside && /^```$/ { exit }
    inside { print }' "$document")
[ -n "$text" ] || { echo "$document has no block whose mark ends with: runs it as $name" >&2; exit 1; }
printf '%s\n' "$text"
