#!/usr/bin/env bash
# Inside the container of packages.sh, on a small disk: it is full in the middle of an installation. Something says so,
# nothing is half there, and the same command goes on once there is room.
set -euo pipefail
# shellcheck source=deploy/test/inside.sh
. "$(dirname "$0")/inside.sh"

# Leaves so many MiB of the disk free.
leave_free() {
    rm -f /filling
    local free
    free=$(df --output=avail -k / | tail -n 1)
    fallocate -l "$((free - $1 * 1024))K" /filling
}
make_room() { rm -f /filling; }
status_of() { dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null || true; }
full() { says "No space left on device" "$1"; }

step "the package does not fit: it is not there at all, and the same command installs it later"
leave_free 4
if said=$(dpkg -i /debs/trainyard-scheduler_*.deb /debs/trainyard-cli_*.deb 2>&1); then fail "it has fitted: $said"; fi
full "$said"
[ ! -e /usr/bin/trainyard-scheduler ] || fail "a program is there"
[ -z "$(find / -xdev -name '*.dpkg-new' -o -xdev -name '*.dpkg-tmp')" ] || fail "something half-written is left"
make_room
said=$(dpkg -i /debs/trainyard-scheduler_*.deb /debs/trainyard-cli_*.deb 2>&1) || fail "$said"
until_true "the scheduler leads" status_says trainyard-scheduler "leading: jobs running: 0"

step "an upgrade does not fit: the former version runs on, also after a restart"
before=$(status_of trainyard-scheduler)
leave_free 4
if said=$(dpkg -i /debs-next/trainyard-scheduler_*.deb 2>&1); then fail "it has fitted: $said"; fi
full "$said"
[ "$(status_of trainyard-scheduler)" = "$before" ] || fail "it was $before, and is $(status_of trainyard-scheduler)"
make_room
systemctl restart trainyard-scheduler
until_true "the scheduler leads" status_says trainyard-scheduler "leading: jobs running: 0"
dpkg -P trainyard-scheduler trainyard-cli >/dev/null 2>&1
rm -r /var/lib/trainyard

step "the package fits, its data do not: that is said, and it starts by itself once there is room"
mkdir -p /var/lib/trainyard
mount -t tmpfs -o size=16k none /var/lib/trainyard
said=$(dpkg -i /debs/trainyard-scheduler_*.deb /debs/trainyard-cli_*.deb 2>&1) || fail "$said"
says "trainyard-scheduler: it does not start" "$said"
! grep -q first-login.txt <<<"$said" || fail "it names a file that is not there: $said"
until_true "the log names the cause" logged trainyard-scheduler "error: .*No space left on device"
mount -o remount,size=64m /var/lib/trainyard
until_true "the scheduler leads" status_says trainyard-scheduler "leading: jobs running: 0"
test -s /var/lib/trainyard/scheduler/first-login.txt || fail "there is no first login"

step "libtorch does not fit: one message, nothing is left of it, and the same command installs it later"
dpkg -i /debs/trainyard-agent_*.deb /debs/trainyard-trainer_*.deb >/dev/null 2>&1
leave_free 200
umount -l /var/lib/trainyard 2>/dev/null || true
said=$(trainyard-setup-libtorch cpu --wheelhouse /wheels 2>&1) && fail "it has fitted: $said"
says "the disk of /var/lib/trainyard/libtorch is full: make room for 2 GB, and run this again; no libtorch stays in use" "$said"
[ "$(grep -c . <<<"$said")" -le 2 ] || fail "more than a message: $said"
[ -z "$(ls -A /var/lib/trainyard/libtorch)" ] || fail "$(ls -A /var/lib/trainyard/libtorch)"
make_room
trainyard-setup-libtorch cpu --wheelhouse /wheels || fail "no libtorch"
trainyard-trainer info --libtorch >/dev/null || fail "the trainer does not load it"
step "done"
