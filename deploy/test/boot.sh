#!/usr/bin/env bash
# Boots a folder with Debian or Ubuntu in it, in a container whose first process is systemd, and runs a script there as
# root. Usage: boot.sh WORK ROOT SCRIPT [FOLDER=PLACE…]     each FOLDER is to be read at PLACE inside
# ROOT itself stays as it is: what is written goes into WORK, an empty folder that the caller removes, with the control
# groups of that name. With DISK=SIZE there is so much room for what is written. Run it in namespaces of its own, so that
# no mount and no process outlives it: see prepare.sh.
set -euo pipefail

work=$1 root=$(realpath "$2") script=$3
shift 3
# Control groups outlive namespaces: the container's are made below one that is removed.
for tree in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    [ -e "$tree/cgroup.procs" ] || continue
    mkdir "$tree/trainyard-test.$(basename "$work")"
    echo $$ >"$tree/trainyard-test.$(basename "$work")/cgroup.procs"
done

# Outside of the machine's own mounts.
mount --make-rprivate /
[ -z "${DISK:-}" ] || mount -t tmpfs -o "size=$DISK" none "$work"
mkdir "$work"/{upper,work,merged}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$work/merged"
: >"$work/merged/etc/machine-id"
echo lab-head >"$work/merged/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 lab-head\n' >"$work/merged/etc/hosts"

binds=()
for bind in "$@"; do binds+=("--bind-ro=$(realpath "${bind%%=*}"):${bind#*=}"); done
# systemd-nspawn filters system calls by a list of its own, which is older than Landlock. Newer systems know control
# groups of version 2 only, whatever this machine has.
SYSTEMD_SECCOMP=0 UNIFIED_CGROUP_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --machine=lab-head \
    --hostname=lab-head -D "$work/merged" --boot --console=pipe --private-network "${binds[@]}" \
    </dev/null >"$work/console" 2>&1 &
nspawn=$!

inside() { nsenter -t "$init" -m -u -i -n -p -C env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root "$@"; }
running() {
    init=$(pgrep -P "$nspawn" -x systemd) && inside systemctl is-system-running --wait 2>/dev/null | grep -qE 'running|degraded'
}
until running; do
    kill -0 "$nspawn" 2>/dev/null || { cat "$work/console" >&2; exit 1; }
    sleep 0.3
done
inside ip link set lo up
result=0
inside bash "$script" || result=$?
inside systemctl poweroff 2>/dev/null || true
timeout 30 tail --pid="$nspawn" -f /dev/null || kill -9 "$nspawn"
exit "$result"
