#!/usr/bin/env bash
# Runs COMMAND beside a Docker engine of its own, in network, mount and process namespaces of their own: nothing is left
# of it, and no rule is made in the machine's network. As root, on Debian 12. Usage: engine.sh IMAGE.tar|- COMMAND...
# COMMAND finds `docker compose` as $COMPOSE and the engine by DOCKER_HOST. Without an image (`-`) it has the machine's
# network instead, and the engine makes none: to build images, with TRAINYARD_BUILD_NETWORK=host.
set -euo pipefail
# shellcheck source=deploy/debian.sh
. "$(dirname "$0")/../debian.sh"
cache=${TRAINYARD_IMAGE_CACHE:-/var/cache/trainyard-images}

say() { printf 'engine: %s\n' "$*" >&2; }

# Debian 12's docker-compose does not read today's files. Debian 13's is one static program: it is taken out of its
# package, with lists of apt's that are not the machine's.
fetch_compose() {
    local apt=$cache/apt
    [ -x "$cache/docker-compose" ] && return
    say "fetching docker-compose of Debian 13"
    private_apt "$apt" deb trixie update -qq
    (cd "$apt" && private_apt "$apt" deb trixie download -qq docker-compose && dpkg-deb -x docker-compose_*.deb unpacked)
    install -m 755 "$apt/unpacked/usr/libexec/docker/cli-plugins/docker-compose" "$cache/docker-compose"
    rm -rf "$apt"
}

# Ends every process of the namespace: there are none but the engine's. Control groups are the machine's, and so are files.
leave() {
    local rc=$?
    trap - EXIT
    set +e
    kill -TERM -1 2>/dev/null
    for _ in $(seq 50); do
        [ "$(find /proc -maxdepth 1 -name '[0-9]*' | wc -l)" -le 3 ] && break
        sleep 0.1
    done
    kill -KILL -1 2>/dev/null
    awk -v work="$work" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
    find /sys/fs/cgroup/ -depth -type d -path "*$group*" -exec rmdir {} + 2>/dev/null
    rm -rf "$work"
    exit $rc
}

# In the namespaces: an engine, then the command, then nothing.
inside() {
    local images=$1 network=''
    shift
    [ "$images" != - ] || network=', "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false'
    work=$(mktemp -d)
    group=/trainyard-$(basename "$work")
    trap leave EXIT
    ip link set lo up
    export DOCKER_HOST=unix://$work/sock COMPOSE=$cache/docker-compose
    cat >"$work/daemon.json" <<X
{"data-root": "$work/data", "exec-root": "$work/exec", "pidfile": "$work/pid", "hosts": ["$DOCKER_HOST"],
 "cgroup-parent": "$group"$network}
X
    dockerd --config-file "$work/daemon.json" >"$work/log" 2>&1 &
    local engine=$!
    until docker info >/dev/null 2>&1; do
        kill -0 $engine 2>/dev/null || { tail -n 20 "$work/log" >&2; exit 1; }
        sleep 0.2
    done
    [ "$images" = - ] || docker load --quiet --input "$images" >&2
    local rc=0
    "$@" || rc=$?
    [ $rc = 0 ] || tail -n 20 "$work/log" >&2
    exit $rc
}

if [ "${TRAINYARD_INSIDE:-}" = 1 ]; then inside "$@"; fi
[ "$(id -u)" = 0 ] || { say "needs root"; exit 1; }
mkdir -p "$cache"
install_without_services docker.io iptables iproute2
fetch_compose
net=--net
[ "$1" != - ] || net=
TRAINYARD_INSIDE=1 exec unshare ${net:+$net} --mount --pid --fork --kill-child --mount-proc --propagation private -- "$0" "$@"
