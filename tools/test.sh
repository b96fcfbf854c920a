#!/usr/bin/env bash
# Every test: pure ones, those inside a backend, and those from outside against real clusters.
# Arguments are passed on as a filter of the last kind.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"

# Backtraces in errors are for developers, and change what a client sees.
unset RUST_BACKTRACE
export AGGREGATOR_PG_BIN=$PG_BIN AGGREGATOR_SERVER_USER=$SERVER_USER AGGREGATOR_TREE=$TREE
export AGGREGATOR_AS_ROOT=$([ "$(id -u)" = 0 ] && echo 1 || echo 0)
export AGGREGATOR_RUN=$BED/run
stop_clusters() {
    for data in "$AGGREGATOR_RUN"/*/data; do
        [ -f "$data/postmaster.pid" ] && as_server "$PG_BIN/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1
    done
    rm -rf "$AGGREGATOR_RUN"
}
trap stop_clusters EXIT
stop_clusters
mkdir -p "$AGGREGATOR_RUN"
chown "$SERVER_USER" "$AGGREGATOR_RUN"

features=(--no-default-features --features "pg$PG")
log=$BUILD/test.log
: > "$log"
counted() { "$@" 2>&1 | tee -a "$log"; }

if [ $# = 0 ]; then
    say "pure tests"
    counted cargo test --quiet --lib "${features[@]}"
fi
say "tests from outside"
counted cargo test --quiet --test suite "${features[@]}" -- "$@"

awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
