#!/usr/bin/env bash
# Where tests and benchmarks make their clusters. Sourced after setup.sh; what runs there is stopped
# when the script ends.

# Backtraces in errors are for developers, and change what a client sees.
unset RUST_BACKTRACE
export AGGREGATOR_PG_BIN=$PG_BIN AGGREGATOR_SERVER_USER=$SERVER_USER AGGREGATOR_TREE=$TREE
AGGREGATOR_AS_ROOT=$([ "$(id -u)" = 0 ] && echo 1 || echo 0)
AGGREGATOR_WITH_CRON=$([ "$PG" = "$DEBIAN_PG" ] && echo 1 || echo 0)
export AGGREGATOR_AS_ROOT AGGREGATOR_WITH_CRON
export AGGREGATOR_CHROMIUM=${AGGREGATOR_CHROMIUM-$(command -v chromium || true)}
export AGGREGATOR_RUN=$BED/run
# Tests make and drop some thousand databases of hundreds of files: in memory, where there is enough, that takes half the
# time. Benchmarks stay on a disk.
in_memory=/dev/shm/aggregator-$(id -u)-$(printf %s "$BED" | cksum | cut -d' ' -f1)
has_memory() {
    [ -w /dev/shm ] && [ "$(df --output=avail -BG /dev/shm | tail -n 1 | tr -dc 0-9)" -ge 6 ] \
        && awk '$1 == "MemAvailable:" { enough = $2 > 8e6 } END { exit !enough }' /proc/meminfo
}
if [ "${CLUSTERS_IN_MEMORY:-0}" = 1 ] && has_memory; then AGGREGATOR_RUN=$in_memory; fi
stop_clusters() {
    for data in "$AGGREGATOR_RUN"/*/data; do
        [ -f "$data/postmaster.pid" ] && as_server "$PG_BIN/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true
    done
    rm -rf "$AGGREGATOR_RUN"
}
# Whatever a run before has left there goes.
new_clusters() {
    stop_clusters
    mkdir -p "$AGGREGATOR_RUN"
    chown "$SERVER_USER" "$AGGREGATOR_RUN"
}
trap stop_clusters EXIT
new_clusters

