#!/usr/bin/env bash
# Main memory that runs out under control groups of version 2: `make test-cgroup`. Needs root and Debian or Ubuntu.
# Not every machine has version 2 with the memory controller, and a container has what its machine has. So this is a
# machine of QEMU's, without any help of a hypervisor: a Debian 12 with its own kernel, and the packages.
# The first run fetches that Debian (about 500 MB).
set -euo pipefail
cd "$(dirname "$0")/../.."
TEST=test-cgroup
# shellcheck source=deploy/test/prepare.sh
. deploy/test/prepare.sh
ROOT=$WORK/bookworm-kernel
# An emulated machine is slow, and libtorch is large.
LIMIT=${TRAINYARD_VM_SECONDS:-900}

# In namespaces of its own: writes the machine's disk, with the packages installed as an image's builder does.
write_disk() {
    local work=$1 root=$1/merged
    mkdir -p "$work"/{upper,work,merged}
    mount -t overlay overlay -o "lowerdir=$(realpath "$ROOT"),upperdir=$work/upper,workdir=$work/work" "$root"
    mkdir -p "$root"/{test,debs,wheels}
    cp deploy/test/{inside,cgroup-inside}.sh "$root/test/"
    mount --bind "$WORK/deb" "$root/debs"
    mount --bind "$WORK/wheels" "$root/wheels"
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    chroot "$root" /bin/bash -euc 'export LC_ALL=C.UTF-8
        dpkg -i /debs/*.deb
        trainyard-setup-libtorch cpu --wheelhouse /wheels
        yard demo-data /srv/shapes --train 8 --val 2 --size 64'
    umount "$root"/{debs,wheels,proc,dev}
    : >"$root/etc/fstab"
    : >"$root/etc/machine-id"
    echo lab-head >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 lab-head\n' >"$root/etc/hosts"
    # What is said goes to the second serial line, where nobody else speaks.
    cat >"$root/etc/systemd/system/trainyard-test.service" <<'U'
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
Environment=HOME=/root LC_ALL=C.UTF-8 NO_COLOR=1
ExecStart=/bin/bash /test/cgroup-inside.sh
StandardOutput=file:/dev/ttyS1
StandardError=inherit
[Install]
WantedBy=multi-user.target
U
    ln -s ../trainyard-test.service "$root/etc/systemd/system/multi-user.target.wants/"
    # The kernel and what it starts with are handed over by QEMU.
    cp "$root"/boot/vmlinuz-* "$work/kernel"
    cp "$root"/boot/initrd.img-* "$work/initrd"
    mke2fs -q -t ext4 -d "$root" "$work/disk" 4G
    umount "$root"
}

if [ "${1:-}" = write-disk ]; then
    mount --make-rprivate /
    write_disk "$2"
    exit
fi

need debootstrap:debootstrap qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs patchelf:patchelf pip3:python3-pip
system bookworm "$ROOT" udev,linux-image-cloud-amd64,initramfs-tools
fetch_wheels
build_packages deb
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "writing the machine's disk"
"${APART[@]}" "$0" write-disk "$work" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "the disk cannot be written"; }

say "starting the machine, which takes minutes"
: >"$work/said"
tail -n +1 -f "$work/said" 2>/dev/null &
reader=$!
machine=
trap 'kill $reader $machine 2>/dev/null || true; rm -rf "$work"' EXIT
timeout "$LIMIT" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -nodefaults -display none -no-reboot \
    -serial "file:$work/console" -serial "file:$work/said" -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" \
    -kernel "$work/kernel" -initrd "$work/initrd" \
    -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off" </dev/null &
# Waited for, so that a signal ends both.
machine=$!
wait $machine || true
# It ends with what the script said last.
tr -d '\r' <"$work/said" | grep -qx 'cgroup: fine' || {
    tail -n 30 "$work/console" >&2
    fail "the machine did not end well, or not within $LIMIT s"
}
say "passed"
