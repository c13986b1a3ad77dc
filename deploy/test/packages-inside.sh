#!/usr/bin/env bash
# Inside the container of packages.sh: a head node that is a machine for training as well.
set -euo pipefail

# shellcheck source=deploy/test/inside.sh
. "$(dirname "$0")/inside.sh"

step "install the scheduler: it runs, and says how to log in"
said=$(dpkg -i /debs/trainyard-scheduler_*.deb /debs/trainyard-cli_*.deb 2>&1) || fail "$said"
says "first-login.txt" "$said"
until_true "the scheduler leads" status_says trainyard-scheduler "leading: jobs running: 0"
login=/var/lib/trainyard/scheduler/first-login.txt
until_true "there is a first login" test -s $login
[ "$(held_by $login)" = trainyard-scheduler:600 ] || fail "$(held_by $login)"
[ "$(held_by /etc/trainyard/scheduler.toml)" = root:640 ] || fail "$(held_by /etc/trainyard/scheduler.toml)"
! ss -ltn | grep -q ':6379 ' || fail "something listens on Redis' usual port"
$(awk '/yard login/' $login) || fail "yard login"
says admin "$(yard whoami)"

step "install agent and trainer: the agent waits until the machine joins"
said=$(dpkg -i /debs/trainyard-agent_*.deb /debs/trainyard-trainer_*.deb 2>&1) || fail "$said"
says "trainyard-agent join HOST:7433" "$said"
says "trainyard-setup-libtorch" "$said"
! systemctl is-active --quiet trainyard-agent || fail "the agent runs already"
yard demo-data /srv/shapes --train 24 --val 8 --size 64 >/dev/null
cat >>/etc/trainyard/agent.toml <<'T'
data_roots = ["/srv/shapes"]
cpu_slots = 1
T

step "join as root: the service's user has the certificate, and the service runs"
said=$($(awk '/trainyard-agent join/' $login) 2>&1) || fail "$said"
says "trainyard-agent.service runs" "$said"
[ "$(held_by /var/lib/trainyard/agent/tls/key.pem)" = trainyard:600 ] || fail "$(ls -l /var/lib/trainyard/agent/tls)"
systemctl is-enabled --quiet trainyard-agent || fail "the agent is not enabled"
until_true "the agent is connected" status_says trainyard-agent "; connected"
until_true "the agent's control group is its own" logged trainyard-agent "each trainer has a control group"
! logged trainyard-agent "trainers cannot be confined" || fail "trainers are not confined"

step "without libtorch it says what to do"
until_true "yard agents tells" sh -c 'yard agents | tr -s " \n" " " | grep -q trainyard-setup-libtorch'

step "libtorch, from a folder"
trainyard-setup-libtorch cpu --wheelhouse /wheels || fail "no libtorch"
yard agents clear lab-head >/dev/null
until_true "the CPU slot takes jobs" sh -c '! yard agents | grep -q trainyard-setup-libtorch'

step "a job trains, confined"
yard train /srv/shapes/data.yaml --model yolov8n --epochs 1 --imgsz 64 --batch 8 --device cpu --follow || fail "the job"

step "reload: limits and owners change, a port does not"
cat >>/etc/trainyard/scheduler.toml <<'T'
users = ["ada weight=2"]
keep_finished = 7
T
systemctl reload trainyard-scheduler
until_true "the scheduler has read it" logged trainyard-scheduler 'SIGHUP: .*changed="users"'
until_true "it names what needs a restart" logged trainyard-scheduler 'count after a restart keys="keep_finished"'
echo 'owners = ["ada"]' >>/etc/trainyard/agent.toml
systemctl reload trainyard-agent
until_true "the agent has read it" logged trainyard-agent 'changed="owners"'
until_true "it has greeted anew" logged trainyard-agent "the machine has other owners now"
systemctl is-active --quiet trainyard-agent trainyard-scheduler || fail "reload has ended one"

step "a hung program is started again"
for unit in trainyard-scheduler trainyard-agent; do
    before=$(property $unit NRestarts)
    mkdir -p /run/systemd/system/$unit.service.d
    printf '[Service]\nWatchdogSec=2\n' >/run/systemd/system/$unit.service.d/test.conf
    systemctl daemon-reload
    systemctl restart $unit
    kill -STOP "$(property $unit MainPID)"
    until_true "$unit is started again" sh -c "[ \$(systemctl show -P NRestarts $unit) -gt $before ] && systemctl is-active --quiet $unit"
    logged $unit "Watchdog timeout" || journalctl -u $unit | grep -q "Watchdog timeout" || fail "no word of the watchdog"
    rm -r /run/systemd/system/$unit.service.d
    systemctl daemon-reload
    systemctl restart $unit
done
until_true "the agent is connected" status_says trainyard-agent "; connected"

step "upgrade: a running job goes on, and nothing is restarted"
job=$(yard train /srv/shapes/data.yaml --model yolov8n --epochs 400 --imgsz 64 --batch 8 --device cpu)
until_true "the job runs" job_is "$job" RUNNING
pids=$(property trainyard-agent MainPID)/$(property trainyard-scheduler MainPID)/$(pgrep -x trainyard-train)
said=$(dpkg -i /debs-next/*.deb 2>&1) || fail "$said"
says "the former version still runs" "$said"
says "systemctl restart trainyard-agent" "$said"
[ "$pids" = "$(property trainyard-agent MainPID)/$(property trainyard-scheduler MainPID)/$(pgrep -x trainyard-train)" ] ||
    fail "something was restarted"
grep -q 'owners = \["ada"\]' /etc/trainyard/agent.toml || fail "the configuration was replaced"
job_is "$job" RUNNING || fail "the job does not run any more"

step "restart the scheduler, then drain and restart the agent: the job goes on"
systemctl restart trainyard-scheduler
until_true "the agent is back" status_says trainyard-agent "jobs: 1; connected"
yard drain lab-head >/dev/null
until_true "the agent is drained" status_says trainyard-agent "jobs: 0; connected"
systemctl restart trainyard-agent
until_true "the agent is connected" status_says trainyard-agent "; connected"
yard resume lab-head >/dev/null
until_true "the job runs again" job_is "$job" RUNNING
yard cancel "$job" >/dev/null

step "a token in a file: the machine joins at the start of its service"
systemctl stop trainyard-agent
rm -r /var/lib/trainyard/agent/*
sed -i '1i scheduler = "https://lab-head:7433"' /etc/trainyard/agent.toml
# A credential, for root's eyes only; older versions of systemd look for none there.
if [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -ge 252 ]; then
    mkdir -p /etc/credstore
    token=/etc/credstore/trainyard-join-token
else
    token=/srv/join-token
    sed -i "1i join_token_file = \"$token\"" /etc/trainyard/agent.toml
fi
(umask 077 && runuser -u trainyard-scheduler -- trainyard-scheduler --config /etc/trainyard/scheduler.toml join-token >$token)
[ $token = /etc/credstore/trainyard-join-token ] || chown trainyard $token
systemctl start trainyard-agent
until_true "the machine has joined" logged trainyard-agent "this machine has joined"
until_true "the agent is connected" status_says trainyard-agent "; connected"

step "systemd has read every line of the units"
! journalctl --no-pager -o cat | grep -E 'trainyard-(agent|scheduler)\.service:[0-9]+:' || fail "a line of a unit is not understood"

step "remove and install again: it runs again. Purge: the configuration goes, the data stay"
dpkg -r trainyard-agent >/dev/null 2>&1
! systemctl is-active --quiet trainyard-agent || fail "the agent runs without its package"
dpkg -i /debs-next/trainyard-agent_*.deb >/dev/null 2>&1
until_true "the agent is back" status_says trainyard-agent "; connected"
said=$(dpkg -P trainyard-agent trainyard-scheduler trainyard-trainer trainyard-cli 2>&1) || fail "$said"
says "its data are kept in /var/lib/trainyard/scheduler" "$said"
[ ! -e /etc/trainyard ] || fail "$(ls -l /etc/trainyard)"
[ ! -e /etc/systemd/system/multi-user.target.wants/trainyard-agent.service ] || fail "the unit is still enabled"
[ -d /var/lib/trainyard/scheduler/redis ] && [ -d /var/lib/trainyard/agent ] || fail "the data are gone"
! pgrep -f '^/usr/(bin|lib)/trainyard' || fail "something still runs"
step "done"
