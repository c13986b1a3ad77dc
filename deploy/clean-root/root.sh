# Fresh systems in folders, for tests. To be sourced; needs root, debootstrap and a network.
# Everything that is mounted is mounted in a namespace of its own, and goes with the command.

# shellcheck source=deploy/bootstrap.sh
. deploy/bootstrap.sh

ROOTS=target/clean-root

# A fresh system: fresh_root SUITE PACKAGES. Prints its folder. What debootstrap makes is kept for the next time.
fresh_root() {
    local suite=$1 packages=$2 base root
    base=$ROOTS/$suite.base
    root=$ROOTS/$suite
    [ "$(id -u)" -eq 0 ] || { echo "a fresh system needs root: run this as root" >&2; return 1; }
    command -v debootstrap >/dev/null || { echo "install debootstrap first" >&2; return 1; }
    bootstrap "$suite" "$base" "$packages"
    rm -rf "$root"
    cp -a "$base" "$root"
    # Certificates and names as this machine has them: it may be behind a proxy.
    mkdir -p "$root/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    echo "$root"
}

# Runs a command inside a system: in_root ROOT COMMAND...
in_root() {
    local root=$1
    shift
    unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
        root=$1
        shift
        mount --make-rprivate /
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        exec chroot "$root" "$@"' bash "$root" "$@"
}
