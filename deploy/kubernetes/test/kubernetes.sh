#!/usr/bin/env bash
# Runs the manifests on a real Kubernetes of one node: what the API server says of them; nodes that join, train, are
# updated and drained; and what is left when the scheduler's pod is killed. As root, on Debian 12.
# Usage: kubernetes.sh IMAGE.tar BIN_DIR: the image with the flavour cpu, and the folder with `yard` and libfake_nvml.so.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${TRAINYARD_KUBERNETES_CACHE:-/var/cache/trainyard-kubernetes}
tools=$(realpath "$here/../../../.tools/kubernetes/bin")

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'kubernetes: %s\n' "$*" >&2; exit 1; }

if [ -z "${CLUSTER:-}" ]; then
    "$here/build.sh" "$cache"
    # The set-up's own kubectl, whatever else is on the path.
    PATH=$tools:$PATH exec "$here/cluster.sh" "$cache/bin" "$1" "$0" "$@"
fi

bin=$(realpath "$2")
work=$CLUSTER/test
mkdir -p "$work/home"
export HOME=$work/home
train=(train /data/shapes/data.yaml --model yolov8n --device cpu --imgsz 64 --batch 16 --workers 1)

k() { kubectl --namespace trainyard "$@"; }
yard() { "$bin/yard" "$@" 2>"$work/yard.err" || { cat "$work/yard.err" >&2; return 1; }; }

# Polls a condition of events that nothing else announces; two minutes are more than any of them takes.
until_true() {
    local what=$1 end=$((SECONDS + 120))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { k get pods -o wide; k get events | tail -n 15; fail "waited in vain: $what"; }
        sleep 0.3
    done
}
connected() { yard agents -o json | grep -q '"state": *"[A-Z_]*CONNECTED"' && ! yard agents -o json | grep -q DISCONNECTED; }
trained() { yard job "$1" -o json | grep -q '"epoch": *[2-9]'; }
ready() { k wait --for=condition=Ready "pod/$1" --timeout=1s; }
agent_pod() { k get pods -l app.kubernetes.io/name=trainyard-agent -o 'jsonpath={.items[0].metadata.name}'; }
desired() { [ "$(k get daemonset agent -o 'jsonpath={.status.desiredNumberScheduled}')" = "$1" ]; }
succeeded() { yard watch "$1" >/dev/null || { yard job "$1"; fail "the job $1 did not succeed"; }; }
attempts() { yard job "$1" -o json | "$tools/python" -c 'import json, sys; print(len(json.load(sys.stdin)["attempts"]))'; }

# This Kubernetes is older than those that are supported: it has an earlier version of one kind.
render() { kubectl kustomize "$here/../overlays/$1" | sed 's#^apiVersion: policy/v1$#apiVersion: policy/v1beta1#'; }
# Runs the commands of the document as a reader types them; only what this Kubernetes does not know is put in its terms.
documented() {
    local commands
    commands=$("$here/../../documented.sh" "$here/../../../docs/how-to/run-on-kubernetes.md" "$1")
    (
        cd "$here/../../.."
        kubectl() {
            if [ "$1 $2" = "apply -k" ]; then render "${3##*/}" | command kubectl apply -f - >/dev/null 2>&1; else command kubectl "$@"; fi
        }
        PATH=$bin:$PATH
        eval "$commands"
    )
}
# What an API server does not check of a workload, it checks of a pod.
dry_run() {
    "$tools/python" "$here/pods_of.py" <"$1" >"$work/pods.yaml"
    kubectl apply --dry-run=server -f "$1" >"$work/said" 2>&1 && kubectl apply --dry-run=server -f "$work/pods.yaml" >>"$work/said" 2>&1
}

# Reaches the service as people do from their own machines.
forward() {
    kubectl --namespace trainyard port-forward service/scheduler 7433 >"$work/forward.log" 2>&1 &
    forwarding=$!
    until_true "port-forward" curl -skf https://127.0.0.1:7433/healthz
}
forward_again() { kill "$forwarding" 2>/dev/null || true; wait "$forwarding" 2>/dev/null || true; forward; }

check_manifests() {
    say "the API server and every manifest"
    local overlay
    kubectl create namespace trainyard >/dev/null
    kubectl create -f - >/dev/null <<X
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: nvidia}
handler: nvidia
X
    # Pods of a class that is not there are refused, and a dry run makes none.
    kubectl apply -f "$here/../base/cluster/priorities.yaml" >/dev/null
    for overlay in cpu nvidia-runtime redis device-plugin; do
        render $overlay >"$work/$overlay.yaml"
        dry_run "$work/$overlay.yaml" || { cat "$work/said"; fail "the overlay $overlay is refused"; }
        echo "$overlay: $(grep -c 'server dry run' "$work/said") objects are taken"
    done
    # Mistakes that must not pass.
    sed 's/containerPort: 7433/containerPort: 74330/' "$work/cpu.yaml" >"$work/bad.yaml"
    if dry_run "$work/bad.yaml"; then fail "a port that there cannot be is taken"; fi
    sed '/^kind: DaemonSet/,$s/^      app.kubernetes.io\/name: trainyard-agent$/      app.kubernetes.io\/name: agent/' \
        "$work/cpu.yaml" >"$work/bad.yaml"
    if dry_run "$work/bad.yaml"; then fail "a selector that matches no pod is taken"; fi
    echo "mistakes are refused: $(tail -n 1 "$work/said" | cut -c 1-120)"
}

# A disk for the scheduler, as a provisioner would make it: the kubelet gives it to the pod's group.
make_disk() {
    mkdir -p "$work/disk"
    kubectl create -f - >/dev/null <<X
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 50Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {path: $work/disk}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [lab-1]}]}]}
X
}

roll_out() {
    say "roll-out: nodes without the label get no agent, and agents wait for their token"
    # Another node, as far as controllers see.
    kubectl create -f - >/dev/null <<X
apiVersion: v1
kind: Node
metadata: {name: lab-2, labels: {kubernetes.io/hostname: lab-2}}
X
    documented apply
    "$CLUSTER/names"
    until_true "the scheduler is ready" ready scheduler-0
    until_true "one of two nodes has an agent" desired 1
    documented join
    if k logs daemonset/agent | grep 'landlock='; then fail "the agent cannot hold its trainers"; fi
    forward
    # The login of the first start, with the address that the port is forwarded to.
    k exec scheduler-0 -- cat /var/lib/trainyard/first-login.txt | sed -n 's/.*yard login [^ ]* //p' |
        yard login https://127.0.0.1:7433
    until_true "the agent is connected" connected
    yard agents
    documented watch
}

# The library that stands for a driver is what tests on one machine use, too.
see_gpus() {
    say "with NVIDIA's runtime class: the agent finds GPUs, and whose the processes on them are"
    local kubelet
    kubelet=$(pgrep -x kubelet)
    mkdir -p "$work/nvml"
    cp "$bin/libfake_nvml.so" "$work/nvml/"
    cat >"$work/nvml/gpus.json" <<X
{"driver": "580.95.05", "gpus": [
  {"name": "NVIDIA GeForce RTX 4090", "uuid": "GPU-40900000-0000-4000-8000-000000000000", "memory_total_mib": 24564,
   "memory_used_mib": 3364, "compute_capability": [8, 9], "processes": [{"pid": $kubelet, "memory_mib": 3000}]}]}
X
    k patch daemonset agent --patch-file /dev/stdin >/dev/null <<X
spec:
  template:
    spec:
      runtimeClassName: nvidia
      containers:
        - name: agent
          env:
            - {name: TRAINYARD_AGENT__NVML_LIBRARY, value: /nvml/libfake_nvml.so}
            - {name: FAKE_NVML_STATE, value: /nvml/gpus.json}
            # It would find that nobody computes on that GPU.
            - {name: TRAINYARD_AGENT__SELF_TEST, value: "false"}
          volumeMounts: [{name: nvml, mountPath: /nvml, readOnly: true}]
      volumes: [{name: nvml, hostPath: {path: $work/nvml, type: Directory}}]
X
    k rollout status daemonset/agent --timeout=150s | tail -n 1
    until_true "the agent names the host's process" bash -c "'$bin/yard' gpus -o json | grep -q 'kubelet (pid $kubelet)'"
    yard gpus | cut -c 1-160
}

train_one() {
    say "a job trains in the pod"
    yard "${train[@]}" --epochs 1 --follow | tail -n 1
}

update() {
    say "a rolling update, with a job that runs"
    local job
    job=$(yard "${train[@]}" --epochs 5)
    until_true "the job has trained" trained "$job"
    documented update
    succeeded "$job"
    [ "$(attempts "$job")" = 2 ] || fail "the job took $(attempts "$job") attempts, not 2"
    yard job "$job" | grep -A 3 ATTEMPT
    yard logs "$job" | grep -i -m 1 -E 'resum|from epoch|checkpoint' || true
}

kill_scheduler() {
    say "the scheduler's pod is killed: the queue is on its disk"
    local before
    before=$(yard jobs -o json | grep -c '"state"')
    k delete pod scheduler-0 --grace-period=0 --force >/dev/null 2>&1
    until_true "the scheduler is back" ready scheduler-0
    forward_again
    until_true "the agent is connected again" connected
    [ "$(yard jobs -o json | grep -c '"state"')" = "$before" ] || fail "jobs are gone"
    # The disk was mounted again, for the group of the pod: that opens no key to it.
    [ "$(k exec scheduler-0 -- stat -c %a /var/lib/trainyard/tls/ca.key)" = 600 ] || fail "others may read the key of the authority"
    train_one
}

drain() {
    say "the node is drained: the scheduler leaves, agents stay, and both come back to their jobs"
    local job agent
    agent=$(agent_pod)
    job=$(yard "${train[@]}" --epochs 4)
    documented drain 2>&1 | tail -n 1
    [ "$(agent_pod)" = "$agent" ] || fail "the drain took the agent"
    kubectl uncordon lab-1 >/dev/null
    until_true "the scheduler is back" ready scheduler-0
    forward_again
    succeeded "$job"
    [ "$(attempts "$job")" = 1 ] || fail "training did not go on without the scheduler"
}

without_label() {
    say "a node that loses its label loses its agent"
    documented unlabel
    until_true "no node has an agent" desired 0
    until_true "its pod is gone" bash -c "! kubectl -n trainyard get pods -o name | grep agent"
}

# Pods that lead, by their own word.
leading() {
    local pod
    for pod in scheduler-0 scheduler-1; do
        if k exec $pod -- curl -sk https://127.0.0.1:7433/readyz 2>/dev/null | grep -q '^ready: leads'; then echo $pod; fi
    done
}
# The pods' own names are known only where there is CoreDNS: `yard` runs in the pod that it asks.
yard_in() { k exec "$1" -- env YARD_TOKEN="$token" YARD_SERVER=https://127.0.0.1:7433 yard "${@:2}"; }
one_leads() { [ "$(leading | wc -l)" = 1 ]; }
other_leads() { one_leads && [ "$(leading)" != "$1" ]; }

several_schedulers() {
    say "two schedulers on one Redis: one leads, and the other one when that pod is killed"
    local leader
    k delete statefulset scheduler >/dev/null
    until_true "the scheduler is gone" bash -c "! kubectl -n trainyard get pod scheduler-0"
    mkdir -p "$work/redis" "$work/shared"
    chown 7433:7433 "$work/shared"
    redis-server --port 6390 --bind 198.51.100.1 --protected-mode no --appendonly yes --dir "$work/redis" >"$work/redis.log" &
    kubectl create -f - >/dev/null <<X
apiVersion: v1
kind: PersistentVolume
metadata: {name: shared}
spec:
  capacity: {storage: 200Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: $work/shared, type: Directory}
X
    REDIS_URL=redis://198.51.100.1:6390/ documented redis
    sed 's/0-cu130$/0-cpu/' "$work/redis.yaml" | kubectl apply -f - >/dev/null 2>&1
    "$CLUSTER/names"
    until_true "two schedulers are ready" ready scheduler-0
    until_true "two schedulers are ready" ready scheduler-1
    until_true "one of them leads" one_leads
    leader=$(leading)
    echo "$leader leads"
    token=$(k exec "$leader" -- trainyard-scheduler admin-token | sed 's/.* //')
    # Schedulers look for new tokens three times a second.
    until_true "the new token is known" yard_in "$leader" whoami
    yard_in "$leader" "${train[@]}" --name of-both
    k delete pod "$leader" --grace-period=0 --force >/dev/null 2>&1
    until_true "the other one leads" other_leads "$leader"
    yard_in "$(leading)" jobs | grep of-both || fail "the queue is gone"
}

mkdir -p /data
"$bin/yard" demo-data /data/shapes >/dev/null
check_manifests
make_disk
roll_out
see_gpus
train_one
update
kill_scheduler
drain
without_label
several_schedulers
echo
echo "kubernetes: fine"
