#!/usr/bin/env bash
# Brings what building and testing need, and says where it is. Idempotent; sourced by the other
# scripts. Works as root (apt-get install) and as anybody else (packages unpacked into .build).
#
# PG is the major version of PostgreSQL. Sets: BED, PG_CONFIG and PG_BIN (a private copy of PostgreSQL),
# SERVER_USER, as_server, CARGO_PGRX.
# With TARGET_PG_CONFIG, PG_CONFIG is that one and no copy is made.
set -euo pipefail

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG=${PG:-15}
PGRX_VERSION=0.18.1
BUILD=$TREE/.build
# Socket paths are short, and the server's user must be able to enter: not below a private home.
BED=${AGGREGATOR_BED:-/tmp/aggregator-$(id -u)-$(printf %s "$TREE" | cksum | cut -d' ' -f1)}
mkdir -p "$BUILD" "$BED"
chmod 755 "$BED"
[ -O "$BED" ] || { echo "error: $BED belongs to somebody else" >&2; exit 1; }

# What psql and the server's programs would take from it is meant for another server.
for name in $(compgen -e PG); do
    case $name in PG | PG_CONFIG | PG_BIN | PGRX_*) ;; *) unset "$name" ;; esac
done

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

source "$TREE/tools/postgres.sh"
PACKAGES="libclang-dev gcc libc6-dev pkg-config ca-certificates"
if [ -z "${TARGET_PG_CONFIG:-}" ]; then
    PACKAGES="$PACKAGES $POSTGRES_PACKAGES python3 python3-pip curl"
elif [ ! -f "$("$TARGET_PG_CONFIG" --includedir-server)/postgres.h" ]; then
    PACKAGES="$PACKAGES postgresql-server-dev-$PG"
fi

unpacked=$BUILD/debian
export PATH="$unpacked/usr/bin:$HOME/.cargo/bin:$PATH"
use_unpacked() {
    local lib
    lib=$unpacked/usr/lib
    LD_LIBRARY_PATH="$lib/$(uname -m)-linux-gnu:$lib/llvm-14/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export LD_LIBRARY_PATH
}
if [ -d "$unpacked" ]; then use_unpacked; fi

find_postgres() {
    if [ -n "${TARGET_PG_CONFIG:-}" ]; then
        [ -f "$("$TARGET_PG_CONFIG" --includedir-server)/postgres.h" ]
    else
        bring_postgres
    fi
}

find_clang() {
    for root in "" "$unpacked"; do
        LIBCLANG=$(find "$root/usr/lib/" -maxdepth 3 -name 'libclang*.so*' -not -name 'libclang-cpp*' 2>/dev/null | head -n 1)
        [ -n "$LIBCLANG" ] && return 0
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"
    else return 127
    fi
}

# With lists and archives of its own, which takes no root.
apt_privately() {
    local apt=$BUILD/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    apt-get -qq -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" -o "Dir::Cache::archives=$apt/archives" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User= -o "Dir::Log=$apt" "$@"
}

install_packages() {
    if as_root true 2>/dev/null; then
        # The service that Debian starts with the package is not wanted.
        as_root env DEBIAN_FRONTEND=noninteractive bash -c '
            apt-get update -qq || apt-get update -qq
            mkdir -p /etc/postgresql-common
            [ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
            apt-get install -y -qq --no-install-recommends '"$PACKAGES"
        return
    fi
    # Without root: the same packages, with what they miss, unpacked into the tree.
    mkdir -p "$unpacked"
    apt_privately update || apt_privately update
    # shellcheck disable=SC2086
    apt_privately install -y --no-install-recommends --download-only $PACKAGES
    for package in "$BUILD/apt"/archives/*.deb; do
        dpkg -x "$package" "$unpacked"
    done
    use_unpacked
}

missing_tool() {
    for tool in cc pkg-config; do command -v "$tool" >/dev/null || return 0; done
    [ -n "${TARGET_PG_CONFIG:-}" ] && return 1
    for tool in python3 curl; do command -v "$tool" >/dev/null || return 0; done
    python3 -m pip --version >/dev/null 2>&1 || return 0
    return 1
}

if ! find_postgres || ! find_clang || missing_tool; then
    say "installing Debian packages: $PACKAGES"
    install_packages > "$BUILD/packages.log" 2>&1 || { tail -n 20 "$BUILD/packages.log" >&2; fail "the packages could not be installed; see .build/packages.log"; }
    find_postgres && find_clang || fail "PostgreSQL $PG or libclang is still missing"
fi
if [ -d "$unpacked" ]; then
    LIBCLANG_PATH=$(dirname "$LIBCLANG")
    export LIBCLANG_PATH
    resource=$(find "$unpacked/usr/lib" -type d -path '*clang/*/include' 2>/dev/null | head -n 1)
    [ -n "$resource" ] && export BINDGEN_EXTRA_CLANG_ARGS="-isystem $resource"
fi

command -v cargo >/dev/null || fail "Rust is missing: install it from https://rustup.rs, then run this again"

PG_CONFIG=${TARGET_PG_CONFIG:-$PG_BIN/pg_config}

# cargo-pgrx reads the copy's headers and is told not to change compiler flags behind cargo's back.
export PGRX_PG_CONFIG_PATH=$PG_CONFIG
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1
export PGRX_HOME=$BUILD/pgrx
mkdir -p "$PGRX_HOME"
# While the file is missing, cargo takes it for changed, and builds pgrx anew each time.
[ -e "$PGRX_HOME/config.toml" ] || echo '[configs]' > "$PGRX_HOME/config.toml"
CARGO_PGRX=$BUILD/tools/bin/cargo-pgrx
if ! "$CARGO_PGRX" pgrx --version 2>/dev/null | grep -qF "$PGRX_VERSION"; then
    say "building cargo-pgrx $PGRX_VERSION (some minutes, once)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-pgrx --version "=$PGRX_VERSION" --locked --debug --quiet --root "$BUILD/tools"
fi

# PostgreSQL refuses to run as root. The user is for the scripts that source this.
# shellcheck disable=SC2034
if [ "$(id -u)" = 0 ]; then
    SERVER_USER=postgres
    id postgres >/dev/null 2>&1 || useradd --system --no-create-home postgres
    as_server() { runuser -u postgres -- "$@"; }
else
    SERVER_USER=$(id -un)
    as_server() { "$@"; }
fi

# Builds the extension and installs it into the PostgreSQL of a pg_config.
install_extension() {
    "$CARGO_PGRX" pgrx install --release --no-default-features --features "pg$PG" --pg-config "$1" \
        > "$BUILD/install$PG.log" 2>&1 || { cat "$BUILD/install$PG.log" >&2; fail "the extension does not build"; }
}

version() { sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' "$TREE/Cargo.toml"; }
# The version before this one: the last that is kept.
last_version() {
    find "$TREE/tests/upgrades" -name 'aggregator--*.sql' -printf '%f\n' | sed 's/^aggregator--\(.*\)\.sql$/\1/' \
        | grep -vxF "$(version)" | sort -V | tail -n 1
}
upgrade_path() { echo "sql/aggregator--$(last_version)--$(version).sql"; }
# The upgrade script as it ought to be, for the extension that was installed last.
upgrade_script() {
    python3 "$TREE/tools/upgrade_script.py" "$TREE/tests/upgrades/aggregator--$(last_version).sql" \
        "$("$PG_CONFIG" --sharedir)/extension/aggregator--$(version).sql" \
        "$TREE/sql/upgrades/$(last_version)--$(version).sql" "$(last_version)" "$(version)"
}
