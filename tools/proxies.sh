#!/usr/bin/env bash
# The proxies of the pages, by use_proxies: nginx and Caddy as Debian has them, unpacked and not installed, because
# neither is to become a service here. Sourced after setup.sh. It exports AGGREGATOR_PROXIES, a folder with their programs
# that the server's user may enter, empty where they cannot be had.

fetch_proxies() (
    rm -rf "$1.new"
    mkdir -p "$1.new"
    cd "$1.new" || exit
    apt_privately update
    apt_privately download nginx caddy
    for package in *.deb; do dpkg -x "$package" .; done
    rm ./*.deb
    usr/sbin/nginx -v && usr/bin/caddy version
)

use_proxies() {
    export AGGREGATOR_PROXIES=$BED/proxies
    if [ ! -d "$AGGREGATOR_PROXIES" ]; then
        say "fetching nginx and Caddy (10 MB)"
        if fetch_proxies "$AGGREGATOR_PROXIES" > "$BUILD/proxies.log" 2>&1; then
            mv "$AGGREGATOR_PROXIES.new" "$AGGREGATOR_PROXIES"
        else
            AGGREGATOR_PROXIES=
        fi
    fi
}
