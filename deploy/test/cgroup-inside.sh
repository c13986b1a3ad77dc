#!/usr/bin/env bash
# Inside the machine of cgroup.sh: a head node that is a machine for training as well, with control groups of version 2.
set -euo pipefail
# An emulated machine is slow.
TRIES=1500
# shellcheck source=deploy/test/inside.sh
. "$(dirname "$0")/inside.sh"
GROUPS_AT=/sys/fs/cgroup/system.slice/trainyard-agent.service

group_of() { echo "$GROUPS_AT"/trainer-"$1"-1; }
trainer_of() { cat "$(group_of "$1")/cgroup.procs"; }
trains() { [ -n "$(trainer_of "$1")" ] && job_is "$1" RUNNING; }

step "the kernel has control groups of version 2, with memory"
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || fail "$(stat -fc %T /sys/fs/cgroup)"
grep -qw memory /sys/fs/cgroup/cgroup.controllers || fail "$(cat /sys/fs/cgroup/cgroup.controllers)"
uname -r

step "join: the agent's control group is its own, and counts memory"
login=/var/lib/trainyard/scheduler/first-login.txt
until_true "there is a first login" test -s $login
$(awk '/yard login/' $login) || fail "yard login"
cat >>/etc/trainyard/agent.toml <<'T'
data_roots = ["/srv/shapes"]
cpu_slots = 2
self_test_limit = "10m"
stall_after = "30m"
T
mkdir -p /etc/systemd/system/trainyard-agent.service.d
printf '[Service]\nMemoryMax=2G\n' >/etc/systemd/system/trainyard-agent.service.d/memory.conf
systemctl daemon-reload
$(awk '/trainyard-agent join/' $login) || fail "join"
until_true "the agent is connected" status_says trainyard-agent "; connected"
until_true "each trainer has a control group" logged trainyard-agent 'each trainer has a control group.*memory=true'
grep -qw memory $GROUPS_AT/cgroup.subtree_control || fail "trainers' memory is not counted"

step "two jobs train, each in a group of its own"
until_true "the CPU slots take jobs" sh -c 'yard agents -o json | grep -q CONNECTED'
train() { yard train /srv/shapes/data.yaml --model yolov8n --imgsz 32 --batch 2 --workers 0 --device cpu --max-retries 0 "$@"; }
large=$(train --epochs 400)
other=$(train --epochs 400)
until_true "the first trains" trains "$large"
until_true "the second trains" trains "$other"
agent=$(property trainyard-agent MainPID)
survivor=$(trainer_of "$other")
[ "$(cat $GROUPS_AT/agent/cgroup.procs)" = "$agent" ] || fail "the agent is not alone in its group"

step "one takes more memory than its group may: the kernel kills it, and nobody else"
victim=$(trainer_of "$large")
echo 32M >"$(group_of "$large")/memory.max"
until_true "the job has failed" job_is "$large" FAILED
says HOST_OOM "$(yard job "$large" -o json)"
says "memory ran out" "$(yard job "$large")"
until_true "the kernel names the trainer and its group" \
    sh -c "journalctl -k -o cat --no-pager | grep -q 'oom_memcg=.*/trainer-$large-1.*pid=$victim,'"
until_true "its group is gone" test ! -e "$(group_of "$large")"
[ "$(property trainyard-agent MainPID)" = "$agent" ] || fail "the agent is another one"
[ "$(property trainyard-agent NRestarts)" = 0 ] || fail "the agent was restarted"
systemctl is-active --quiet trainyard-agent || fail "the agent has ended"
[ "$(trainer_of "$other")" = "$survivor" ] || fail "the other trainer has ended"
job_is "$other" RUNNING || fail "the other job does not run: $(yard job "$other")"

step "the unit's own limit is the memory that the agent has"
says "2.0 GiB" "$(yard agents)"

step "the other job ends when it is asked to, and no group is left"
yard cancel "$other" >/dev/null
until_true "the other job ends when it is asked to" job_is "$other" CANCELLED
until_true "no trainer's group is left" sh -c "! ls -d $GROUPS_AT/trainer-*"
printf '\ncgroup: fine\n'
