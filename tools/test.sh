#!/usr/bin/env bash
# Every test: pure ones, those inside a backend, and those from outside against real clusters.
# Arguments are passed on as a filter of the last kind, which alone then runs.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

features=(--no-default-features --features "pg$PG")
log=$BUILD/test.log
: > "$log"
counted() { "$@" 2>&1 | tee -a "$log"; }

# cargo-pgrx runs its server through sudo, which need not be here.
in_backend() {
    local shim=$BUILD/shim pgdata=$BED/pgtest
    mkdir -p "$shim"
    rm -rf "$pgdata"
    cat > "$shim/sudo" <<'SUDO'
#!/bin/sh
user=root
[ "$1" = -u ] && { user=$2; shift 2; }
exec runuser -u "$user" -- env "$@"
SUDO
    chmod +x "$shim/sudo"
    local runas=()
    if [ "$(id -u)" = 0 ]; then
        runas=(--runas "$SERVER_USER")
        install -d -o "$SERVER_USER" "$pgdata"
    else
        export USER=$SERVER_USER
    fi
    PATH=$shim:$(dirname "$CARGO_PGRX"):$PATH RUST_BACKTRACE=0 \
        cargo pgrx test "pg$PG" pg_tests "${runas[@]}" --pgdata "$pgdata" "${features[@]}"
}

if [ $# = 0 ]; then
    say "pure tests"
    counted cargo test --quiet --lib "${features[@]}"
    say "tests inside a backend"
    counted in_backend
fi

say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"
# One test looks at the page of usage_dashboard in a browser.
if ! command -v chromium >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive bash -c 'apt-get update -qq; apt-get install -y -qq --no-install-recommends chromium' \
        > "$BUILD/chromium.log" 2>&1 || say "NO CHROMIUM HERE, AND NOT ROOT: the page of usage_dashboard is NOT looked at in a browser"
fi
source "$TREE/tools/clients.sh"
source "$TREE/tools/clusters.sh"
say "tests from outside"
counted cargo test --quiet --test suite "${features[@]}" -- "$@"

awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
[ -n "$AGGREGATOR_NODE" ] || say "AMONG THEM WITHOUT REAL CLIENTS, SO THAT THEY TRIED NOTHING: rest, advisors"
