#!/usr/bin/env bash
# Figures, next to what they are a ratio to in the same run. Arguments: the benches to run, by name.
source "$(dirname "$0")/setup.sh"
cd "$TREE"
[ $# = 0 ] && set -- overhead many stream jobs cancel sync usage
say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"
source "$TREE/tools/clusters.sh"
say "$(nproc) cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)"
cargo bench --quiet "${@/#/--bench=}" --no-default-features --features "pg$PG"
