#!/usr/bin/env bash
# Builds a real Kubernetes 1.20 control plane and kubelet from Debian 12's own source package, since nobody packages the
# programs. 9 minutes of processor time, once. Usage: build.sh DIR, and then the programs are in DIR/bin.
set -euo pipefail
# shellcheck source=deploy/debian.sh
. "$(dirname "$0")/../../debian.sh"
dir=$(realpath -m "$1")
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
# Go 1.19 is the newest that this source builds with and Debian 12 has.
go=/usr/lib/go-1.19/bin

say() { printf 'kubernetes: %s\n' "$*"; }

fetch_source() {
    private_apt "$dir/apt" deb-src bookworm update -qq
    (cd "$dir" && private_apt "$dir/apt" deb-src bookworm source -qq kubernetes >/dev/null)
}

# The makefile of 1.20 needs a GOPATH: its list of modules is too old for -mod=vendor. It also makes the OpenAPI files.
build() {
    local source
    source=$(find "$dir" -maxdepth 1 -type d -name 'kubernetes-*')
    mkdir -p "$dir/go/src/k8s.io" "$dir/home" "$dir/bin"
    ln -sfn "$source" "$dir/go/src/k8s.io/kubernetes"
    cat >"$dir/version" <<'X'
KUBE_GIT_COMMIT='debian'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='v1.20.2'
KUBE_GIT_MAJOR='1'
KUBE_GIT_MINOR='20'
X
    cd "$dir/go/src/k8s.io/kubernetes"
    env PATH="$go:$PATH" GOPROXY=off GOPATH="$dir/go" GOCACHE="$dir/gocache" HOME="$dir/home" CGO_ENABLED=0 \
        KUBE_GIT_VERSION_FILE="$dir/version" \
        nice make WHAT="${programs[*]/#/cmd/}" GOLDFLAGS="-s -w" >"$dir/build.log" 2>&1 ||
        { tail -n 30 "$dir/build.log" >&2; exit 1; }
    # Last, and by a rename: kube-proxy in place says that all are whole.
    for program in "${programs[@]}"; do
        install -m 755 "_output/local/bin/linux/amd64/$program" "$dir/bin/$program.new"
    done
    for program in "${programs[@]}"; do mv "$dir/bin/$program.new" "$dir/bin/$program"; done
    cd "$dir" && rm -rf gocache go home "$source" apt
}

if [ -x "$dir/bin/kube-proxy" ]; then exit 0; fi
[ "$(. /etc/os-release && echo "$ID$VERSION_ID")" = debian12 ] || { echo "kubernetes: only Debian 12's source is known to build" >&2; exit 1; }
install_without_services golang-1.19-go jq rsync make dpkg-dev patch
say "building Kubernetes 1.20 into $dir, once; its log is $dir/build.log"
fetch_source
build
