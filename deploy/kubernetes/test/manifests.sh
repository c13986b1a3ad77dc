#!/usr/bin/env bash
# Checks the manifests without a cluster: every overlay is rendered, fits the schemas of the oldest and the newest
# Kubernetes that are supported, and makes sense. Usage: manifests.sh BIN_DIR, the folder with the four programs.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here/../.."
bin=$(realpath "${1:-target/debug}")
tools=$PWD/.tools/kubernetes/bin
oldest=1.28
newest=1.37
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { printf 'manifests: %s\n' "$*" >&2; exit 1; }

# The kinds of the Prometheus operator are its own: these schemas have none of them.
validate() {
    local version
    for version in $oldest $newest; do
        "$tools/kubernetes-validate" -k "$version" --strict --quiet "$1" || fail "$1 is refused by the schemas of $version"
    done
}

make_sense() { "$tools/python" "$here/test/meaning.py" "$bin" "$version" <"$1"; }

# Each of these mistakes passes, or must not pass, another check: a check that finds nothing is none.
plant() {
    local what=$1 change=$2
    sed "$change" "$work/nvidia-runtime.yaml" >"$work/planted.yaml"
    cmp -s "$work/planted.yaml" "$work/nvidia-runtime.yaml" && fail "the mistake \`$what\` could not be planted"
    if make_sense "$work/planted.yaml" >/dev/null; then fail "nobody sees the mistake: $what"; fi
}

for overlay in cpu nvidia-runtime redis device-plugin; do
    "$tools/kubectl" kustomize "$here/overlays/$overlay" >"$work/$overlay.yaml"
    validate "$work/$overlay.yaml"
    make_sense "$work/$overlay.yaml" || fail "the overlay $overlay makes no sense"
done

# The component is added as a reader of the document would add it.
mkdir "$work/mine"
cat >"$work/mine/kustomization.yaml" <<X
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [$(realpath --relative-to="$work/mine" "$here/overlays/nvidia-runtime")]
components: [$(realpath --relative-to="$work/mine" "$here/components/prometheus-operator")]
X
"$tools/kubectl" kustomize "$work/mine" >"$work/mine.yaml"
make_sense "$work/mine.yaml" || fail "the component prometheus-operator makes no sense"
# Spelt out twice, and the same.
diff <(sed -n '/^groups:/,$p' "$here/../monitoring/trainyard.rules.yml") \
    <(sed -n 's/^  //; /^groups:/,$p' "$here/components/prometheus-operator/alerts.yaml") >&2 ||
    fail "components/prometheus-operator/alerts.yaml is not what deploy/monitoring/trainyard.rules.yml says"

plant "a selector that matches no pod" '/^kind: DaemonSet/,$s/^      app.kubernetes.io\/name: trainyard-agent$/      app.kubernetes.io\/name: agent/'
plant "a mount without a volume" '/mountPath: \/dev\/shm/{n;s/name: shm/name: memory/}'
plant "a probe of a port that is not there" 's/port: metrics/port: metric/'
plant "a key that the agent has not" 's/metrics_listen/metric_listen/'
plant "a grace below the agent's own" 's/terminationGracePeriodSeconds: 120/terminationGracePeriodSeconds: 90/'
plant "a shell before the program" 's/- \/usr\/bin\/trainyard-agent/- sh/'
plant "an image of another version" 's/:0\.[0-9]*\.[0-9]*-cu130/:latest/'
plant "a secret that nobody makes" 's/secretName: trainyard-join/secretName: join/'
sed 's/^\( *\)hostPID: true/\1hostPid: true/' "$work/cpu.yaml" >"$work/misspelt.yaml"
if (validate "$work/misspelt.yaml") 2>/dev/null >&2; then fail "nobody sees a misspelt field"; fi
echo "manifests: 4 overlays and 1 component are right for Kubernetes $oldest to $newest"
