# shellcheck shell=bash
# Debian and Ubuntu systems in folders, made by debootstrap, for tests. To be sourced; needs root and a network.
# TRAINYARD_DEBIAN_MIRROR and TRAINYARD_UBUNTU_MIRROR name other mirrors than debootstrap's own.
# shellcheck source=deploy/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

# The name that people know: system_of SUITE.
system_of() {
    case $1 in
        bookworm) echo "Debian 12" ;;
        trixie) echo "Debian 13" ;;
        jammy) echo "Ubuntu 22.04" ;;
        noble) echo "Ubuntu 24.04" ;;
        *) echo "bootstrap: there is no suite \`$1\` here; there are bookworm, trixie, jammy and noble" >&2; return 1 ;;
    esac
}

# The keys that Ubuntu's archive is signed with. Debian has them in a package, from Debian 13 on: it is taken apart.
ubuntu_keyring() {
    local installed=/usr/share/keyrings/ubuntu-archive-keyring.gpg folder
    if [ -e $installed ]; then echo $installed; return; fi
    folder=$(realpath -m "$1")
    if [ ! -e "$folder/keys$installed" ]; then
        private_apt "$folder" deb trixie update -qq >&2
        (cd "$folder" && private_apt "$folder" deb trixie download -qq ubuntu-keyring) >&2
        dpkg-deb -x "$folder"/ubuntu-keyring_*.deb "$folder/keys"
        rm -rf "$folder"/{lists,cache,sources.list}
    fi
    echo "$folder/keys$installed"
}

# A system with PACKAGES: bootstrap SUITE FOLDER PACKAGES. It is kept, and made anew when other packages are asked for.
bootstrap() {
    local suite=$1 folder=$2 packages=$3 options mirror=${TRAINYARD_DEBIAN_MIRROR:-} script
    system_of "$suite" >/dev/null
    [ "$(cat "$folder.packages" 2>/dev/null)" != "$packages" ] || return 0
    options=(--variant=minbase "--include=$packages")
    script=/usr/share/debootstrap/scripts/$suite
    if [[ $(system_of "$suite") == Ubuntu* ]]; then
        mirror=${TRAINYARD_UBUNTU_MIRROR:-}
        # Redis is in `universe`, which every Ubuntu has switched on.
        options+=("--keyring=$(ubuntu_keyring "${folder%/*}/ubuntu-keyring")" "--components=main,universe")
        # What knows one Ubuntu knows a later one.
        [ -e "$script" ] || script=/usr/share/debootstrap/scripts/jammy
    fi
    mkdir -p "${folder%/*}"
    # What was cut off half-way does not count.
    rm -rf "$folder" "$folder.packages"
    # It mounts /proc there; not in this machine's own mounts.
    unshare --mount debootstrap "${options[@]}" "$suite" "$folder" "$mirror" "$script" >"$folder.log" 2>&1 ||
        { tail -n 20 "$folder.log" >&2; return 1; }
    rm -rf "$folder"/var/cache/apt/archives/*.deb
    echo "$packages" >"$folder.packages"
}
