#!/usr/bin/env bash
# Runs COMMAND beside a real Kubernetes of one node (etcd, API server, controllers, scheduler, kubelet, kube-proxy,
# containerd, CNI) in network, mount and process namespaces of their own: nothing is left of it, and nothing outside is
# reached. As root, on Debian 12. Usage: cluster.sh KUBERNETES_BIN_DIR IMAGE.tar COMMAND...
# COMMAND finds the cluster by KUBECONFIG, a scratch folder in $CLUSTER, and calls $CLUSTER/names after it made services.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
address=198.51.100.1
node=lab-1
# shellcheck source=deploy/debian.sh
. "$here/../../debian.sh"

say() { printf 'cluster: %s\n' "$*" >&2; }

# Ends every process of the namespaces: there are none but the cluster's. Control groups and files are the machine's.
leave() {
    local rc=$?
    trap - EXIT
    set +e
    cd /
    # Bash tells of each job that is killed.
    exec 2>/dev/null
    kill -TERM -1 2>/dev/null
    for _ in $(seq 30); do
        [ "$(find /proc -maxdepth 1 -name '[0-9]*' | wc -l)" -le 3 ] && break
        sleep 0.1
    done
    kill -KILL -1 2>/dev/null
    awk -v work="$CLUSTER" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
    # What has just been killed may take a moment to leave its group.
    for _ in $(seq 20); do
        find /sys/fs/cgroup/ -depth -type d -path "*$group*" -exec rmdir {} + 2>/dev/null
        [ -z "$(find /sys/fs/cgroup/ -type d -path "*$group*" -print -quit)" ] && break
        sleep 0.1
    done
    umount -l /data && { [ ! -e "$CLUSTER/made-data" ] || rmdir /data; }
    rm -rf "$CLUSTER"
    exit $rc
}

make_groups() {
    local controller
    for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd unified; do
        [ ! -d /sys/fs/cgroup/$controller ] || mkdir -p "/sys/fs/cgroup/$controller$group"
    done
    for file in cpus mems; do
        [ ! -d /sys/fs/cgroup/cpuset ] || cat /sys/fs/cgroup/cpuset/cpuset.$file >"/sys/fs/cgroup/cpuset$group/cpuset.$file"
    done
}

# Addresses that nobody has, and paths of the node that the manifests name: folders of the test's.
make_node() {
    ip link set lo up
    ip link add node0 type veth peer name node1
    ip link set node1 up
    ip addr add $address/24 dev node0
    ip link set node0 up
    ip route add default dev node0
    mkdir -p pki net.d kubelet names.d node/data node/lib
    printf '127.0.0.1 localhost %s\n' $node >hosts
    mount --bind hosts /etc/hosts
    printf 'nameserver %s\n' $address >resolv
    mount --bind resolv "$(realpath /etc/resolv.conf)"
    [ -d /data ] || { mkdir /data; touch made-data; }
    mount --bind node/data /data
    mount --bind node/lib /var/lib
    # As on every node of systemd's: what is mounted later reaches pods. Only within these namespaces.
    mount --make-rshared /
}

start_api() {
    etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster default=http://127.0.0.1:2380 --unsafe-no-fsync >etcd.log 2>&1 &
    openssl genrsa -out pki/accounts.key 2048 2>/dev/null
    openssl rsa -in pki/accounts.key -pubout -out pki/accounts.pub 2>/dev/null
    echo 'admin,admin,admin,system:masters' >pki/tokens.csv
    # Names of nodes are in /etc/hosts; without this, `exec` and `logs` look for addresses.
    "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --cert-dir=pki --secure-port=6443 --bind-address=$address \
        --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file=pki/accounts.pub --service-account-signing-key-file=pki/accounts.key \
        --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC --allow-privileged=true \
        --kubelet-preferred-address-types=Hostname >apiserver.log 2>&1 &
    cat >admin.conf <<X
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://$address:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: admin}}]
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
current-context: lab
X
}

start_containerd() {
    cat >containerd.toml <<X
version = 2
root = "$CLUSTER/containerd"
state = "$CLUSTER/containerd-state"
[grpc]
  address = "$CLUSTER/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  # Stands for NVIDIA's, so that \`runtimeClassName: nvidia\` is accepted.
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$CLUSTER/net.d"
X
    cat >net.d/10-lab.conflist <<'X'
{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
X
    containerd -c containerd.toml >containerd.log 2>&1 &
}

# The image of the pods' own process, of one static program, in the form that `docker save` writes.
pause_image() {
    local config layer
    mkdir -p pause/root
    gcc -static -Os -s -o pause/root/pause "$here/pause.c"
    tar -C pause/root --owner=0 --group=0 -cf pause/layer.tar pause
    layer=$(sha256sum <pause/layer.tar | cut -d' ' -f1)
    config="{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Entrypoint\":[\"/pause\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$layer\"]}}"
    printf '%s' "$config" >pause/config.json
    echo '[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]' >pause/manifest.json
    tar -C pause -cf pause.tar manifest.json config.json layer.tar
}

start_node() {
    cat >kubelet.yaml <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupRoot: $group
enforceNodeAllocatable: []
failSwapOn: false
clusterDNS: ["$address"]
clusterDomain: cluster.local
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: 100Mi}
X
    "$bin/kube-controller-manager" --kubeconfig=admin.conf --service-account-private-key-file=pki/accounts.key \
        --leader-elect=false >controllers.log 2>&1 &
    "$bin/kube-scheduler" --kubeconfig=admin.conf --leader-elect=false >scheduler.log 2>&1 &
    "$bin/kube-proxy" --kubeconfig=admin.conf --hostname-override=$node --proxy-mode=iptables \
        --conntrack-max-per-core=0 --metrics-bind-address=127.0.0.1:10249 >proxy.log 2>&1 &
    "$bin/kubelet" --config=kubelet.yaml --kubeconfig=admin.conf --root-dir="$CLUSTER/kubelet" \
        --container-runtime=remote --container-runtime-endpoint="unix://$CLUSTER/containerd.sock" \
        --hostname-override=$node --node-ip=$address --cert-dir="$CLUSTER/kubelet/pki" \
        --volume-plugin-dir="$CLUSTER/kubelet/plugins" >kubelet.log 2>&1 &
}

# Stands for CoreDNS: the names of the services that there are when it is called.
names_script() {
    dnsmasq --no-hosts --no-resolv --conf-file=/dev/null --listen-address=$address --bind-interfaces \
        --hostsdir="$CLUSTER/names.d" --pid-file= --user=root
    cat >names <<'X'
#!/usr/bin/env bash
set -euo pipefail
kubectl get services -A -o jsonpath='{range .items[*]}{.spec.clusterIP} {.metadata.name}.{.metadata.namespace}.svc.cluster.local {.metadata.name}.{.metadata.namespace}.svc{"\n"}{end}' |
    grep -v '^None' >"$CLUSTER/names.d/services"
X
    chmod +x names
}

inside() {
    bin=$1 image=$2
    shift 2
    CLUSTER=$(mktemp -d /tmp/kubernetes.XXXXXX)
    group=/trainyard-$(basename "$CLUSTER")
    # A cloud's metadata would be asked for a name otherwise.
    export CLUSTER KUBECONFIG=$CLUSTER/admin.conf AWS_EC2_METADATA_DISABLED=true
    trap leave EXIT
    local back=$PWD rc=0
    cd "$CLUSTER"
    make_groups
    make_node
    start_api
    start_containerd
    pause_image
    names_script
    until curl -skf -o /dev/null -H 'Authorization: Bearer admin' https://$address:6443/readyz; do sleep 0.3; done
    until [ -S containerd.sock ]; do sleep 0.1; done
    for file in pause.tar "$image"; do ctr -a containerd.sock -n k8s.io images import "$file" >/dev/null; done
    start_node
    until kubectl get node $node >/dev/null 2>&1; do sleep 0.3; done
    kubectl wait --for=condition=Ready node/$node --timeout=90s >/dev/null
    until kubectl -n default get serviceaccount default >/dev/null 2>&1; do sleep 0.2; done
    ./names
    cd "$back"
    "$@" || rc=$?
    [ $rc = 0 ] || tail -n 15 "$CLUSTER/kubelet.log" >&2
    exit $rc
}

if [ "${TRAINYARD_INSIDE:-}" = 1 ]; then inside "$@"; fi
[ "$(id -u)" = 0 ] || { say "needs root"; exit 1; }
install_without_services etcd-server containerd runc containernetworking-plugins iptables conntrack dnsmasq-base \
    iproute2 gcc libc6-dev openssl curl redis-server procps
bin=$(realpath "$1") image=$(realpath "$2")
shift 2
TRAINYARD_INSIDE=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private -- \
    "$0" "$bin" "$image" "$@"
