# shellcheck shell=bash
# What tests that install something on a Debian machine need. To be sourced.

# The archive that this machine uses already.
mirror() {
    { sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null
      sed -n 's/^deb \(\[[^]]*\] \)\?\(http[^ ]*\).*/\2/p' /etc/apt/sources.list 2>/dev/null; } | head -n 1
}

# Runs apt-get with lists of its own in a folder, so that the machine's stay as they are.
# Usage: private_apt FOLDER deb|deb-src RELEASE ARGUMENT...
private_apt() {
    local folder=$1 kind=$2 release=$3
    shift 3
    mkdir -p "$folder"/lists/partial "$folder"/cache/archives/partial
    echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $release main" >"$folder/sources.list"
    apt-get -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root "$@"
}

# Installs those of the packages that are missing. Their services are not started: they would listen, and make rules in
# the machine's network. Whoever has a policy of their own has decided that already.
install_without_services() {
    local package missing=() policy=/usr/sbin/policy-rc.d
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    printf 'installing %s\n' "${missing[*]}" >&2
    if [ -e $policy ]; then policy=/dev/null; else install -m 755 /dev/stdin $policy <<<$'#!/bin/sh\nexit 101'; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    [ $policy = /dev/null ] || rm $policy
}
