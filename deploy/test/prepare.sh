# shellcheck shell=bash
# What the tests of installations share before they install anything. To be sourced, from the root of the repository.
# shellcheck source=deploy/bootstrap.sh
. deploy/bootstrap.sh

# Systems, libtorch and packages are kept here for the next time.
WORK=target/test-packages
# What the packages depend on, so that nothing is fetched while they are installed.
SYSTEM=systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,adduser,redis-tools,libgomp1,libstdc++6,python3

say() { printf '%s: %s\n' "$TEST" "$*"; }
fail() { printf '%s: %s\n' "$TEST" "$*" >&2; exit 1; }

# Root, and the packages of tools that are missing: need TOOL:PACKAGE...
need() {
    local tool missing=()
    [ "$(id -u)" -eq 0 ] || fail "needs root"
    for tool in "$@"; do command -v "${tool%:*}" >/dev/null || missing+=("${tool#*:}"); done
    mkdir -p "$WORK"
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A system of its own, with packages beside those that everybody needs: system SUITE FOLDER [PACKAGES].
system() {
    [ -e "$2.packages" ] || say "fetching $(system_of "$1") into $2, once"
    bootstrap "$1" "$2" "$SYSTEM${3:+,$3}" || fail "debootstrap failed, see $2.log"
}

# The wheels of libtorch for the CPU, in $WORK/wheels.
fetch_wheels() {
    local setup=deploy/deb/trainyard-trainer/trainyard-setup-libtorch
    if ! TRAINYARD_LIBTORCH_LOCKS=deploy/libtorch python3 $setup cpu --download "$WORK/wheels" >"$WORK/wheels.log" 2>&1; then
        cat "$WORK/wheels.log" >&2
        fail "libtorch for the CPU cannot be fetched"
    fi
}

# The packages of the programs in BIN, in a folder of $WORK: build_packages FOLDER [SUFFIX OF THE VERSION].
build_packages() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    VERSION=$version${2:-} deploy/deb/build.sh "$WORK/$1" >/dev/null
}

# Runs a command in namespaces of its own: nothing that it mounts or starts outlives it.
APART=(unshare --mount --pid --fork --kill-child --mount-proc)

# Boots a system and runs a script there, see boot.sh: boot ROOT SCRIPT [FOLDER=PLACE…]. Whatever ends it, nothing stays.
boot() {
    local rc=0
    BOOTED=$(mktemp -d)
    # Waited for, so that a signal ends both.
    "${APART[@]}" deploy/test/boot.sh "$BOOTED" "$@" &
    RUNNING=$!
    wait "$RUNNING" || rc=$?
    RUNNING=
    forget_boot
    return $rc
}
forget_boot() {
    local group tries
    [ -n "${BOOTED:-}" ] || return 0
    # unshare heeds no other signal; what is in its namespaces goes with it.
    [ -z "$RUNNING" ] || kill -KILL "$RUNNING" 2>/dev/null || true
    # The last processes leave a moment after they were killed.
    for tries in $(seq 50); do
        for group in /sys/fs/cgroup{,/*}/trainyard-test."$(basename "$BOOTED")"; do
            [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
        compgen -G "/sys/fs/cgroup/*/trainyard-test.$(basename "$BOOTED")" >/dev/null || break
        sleep 0.1
    done
    rm -rf "$BOOTED"
    BOOTED=
}
trap forget_boot EXIT
