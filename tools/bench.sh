#!/usr/bin/env bash
# Figures: what a call through the database adds to the same call made directly.
source "$(dirname "$0")/setup.sh"
cd "$TREE"
say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"
source "$TREE/tools/clusters.sh"
say "$(nproc) cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)"
cargo bench --quiet --bench overhead --no-default-features --features "pg$PG"
