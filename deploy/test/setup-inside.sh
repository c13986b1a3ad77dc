#!/usr/bin/env bash
# Inside the container of setup.sh: programs that pip has installed become services, of the machine and of a user.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=deploy/test/inside.sh
. ./inside.sh

# The document's commands, as a reader types them.
documented() {
    local commands
    commands=$(../documented.sh ../../docs/how-to/install.md "$1")
    sudo() { "$@"; }
    eval "$commands"
}

step "pip installs the programs, and libtorch"
python3 -m venv /opt/trainyard
/opt/trainyard/bin/pip install --quiet --no-index --find-links=/client /client/trainyard-*.whl
/opt/trainyard/bin/pip install --quiet --no-index --find-links=/wheels --no-deps torch nvidia-cuda-runtime nvidia-cuda-cupti
export PATH=/opt/trainyard/bin:$PATH
yard demo-data /srv/shapes --train 24 --val 8 --size 64 >/dev/null

step "root's services are set up as the document says; the scheduler runs"
said=$(yard setup agent --dry-run)
says "ExecStart=/opt/trainyard/" "$said"
[ ! -e /etc/trainyard ] || fail "a dry run has written something"
said=$(documented "set up") || fail "$said"
says "the first login is in /var/lib/trainyard/scheduler/first-login.txt" "$said"
says "join HOST:7433" "$said"
until_true "the scheduler leads" status_says trainyard-scheduler "leading: jobs running: 0"
login=/var/lib/trainyard/scheduler/first-login.txt
[ "$(held_by $login)" = trainyard-scheduler:600 ] || fail "$(held_by $login)"
eval "$(awk '/yard login/' $login)" || fail "yard login"
! systemctl is-active --quiet trainyard-agent || fail "the agent runs already"

step "it joins as root, and a job trains, confined"
cat >>/etc/trainyard/agent.toml <<'T'
data_roots = ["/srv/shapes"]
cpu_slots = 1
T
said=$(eval "$(awk '/trainyard-agent join/' $login)" 2>&1) || fail "$said"
says "trainyard-agent.service runs" "$said"
systemctl is-enabled --quiet trainyard-agent trainyard-scheduler || fail "a service would not start with the machine"
until_true "the agent is connected" status_says trainyard-agent "; connected"
until_true "the agent's control group is its own" logged trainyard-agent "each trainer has a control group"
! logged trainyard-agent "trainers cannot be confined" || fail "trainers are not confined"
train() { yard train /srv/shapes/data.yaml --model yolov8n --epochs 1 --imgsz 64 --batch 8 --device cpu --follow; }
train || fail "the job"

step "set up again, nothing changes: the configuration stays"
said=$(yard setup agent) || fail "$said"
says "/etc/trainyard/agent.toml is there, and stays" "$said"
grep -q 'cpu_slots = 1' /etc/trainyard/agent.toml || fail "the configuration was replaced"

step "a user's own agent"
yard drain lab-head >/dev/null
useradd --create-home ada
loginctl enable-linger ada
until_true "the user's systemd runs" systemctl is-active "user@$(id -u ada)"
as_ada() { runuser -u ada -- env HOME=/home/ada XDG_RUNTIME_DIR="/run/user/$(id -u ada)" "$@"; }
said=$(as_ada yard setup agent) || fail "$said"
says "systemctl --user enable --now trainyard-agent.service" "$said"
config=/home/ada/.config/trainyard/agent.toml
printf 'data_roots = ["/srv/shapes"]\ncpu_slots = 1\nname = "of-ada"\nmetrics_listen = ""\n' >>$config
token=$(yard token create --agents 2>/dev/null | grep -o 'ty1\.[^ ]*' | head -n 1)
[ -n "$token" ] || fail "no token"
install -m 600 -o ada /dev/stdin /home/ada/token <<<"$token"
as_ada trainyard-agent --config $config join lab-head:7433 --token-file /home/ada/token || fail "ada cannot join"
as_ada systemctl --user enable --now trainyard-agent.service || fail "ada's agent"
until_true "ada's agent is connected" sh -c "yard agents | grep of-ada | grep -q CONNECTED"
as_ada systemd-analyze --user verify --man=no /home/ada/.config/systemd/user/trainyard-agent.service || fail "ada's unit"
train || fail "the job on ada's agent"
as_ada systemctl --user disable --now trainyard-agent.service

step "systemd has read every line of the units"
! journalctl --no-pager -o cat | grep -E 'trainyard-(agent|scheduler)\.service:[0-9]+:' || fail "a line of a unit is not understood"

step "remove it as the document says"
documented remove
! pgrep -f '^/opt/trainyard' || fail "something still runs"
! systemctl cat trainyard-agent trainyard-scheduler 2>/dev/null | grep -q . || fail "a unit is left"
for kept in /var/lib/trainyard/scheduler/redis /etc/trainyard/agent.toml; do [ -e $kept ] || fail "$kept is gone"; done
step "done"
