#!/usr/bin/env bash
# Installs the extension into an existing server: install.sh /path/to/pg_config
TARGET_PG_CONFIG=${1:-$(command -v pg_config)}
[ -x "$TARGET_PG_CONFIG" ] || { echo "usage: make install PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
TARGET_PG_CONFIG=$(readlink -f "$TARGET_PG_CONFIG")
PG=$("$TARGET_PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
export PG TARGET_PG_CONFIG
source "$(dirname "$0")/setup.sh"
cd "$TREE"
say "installing into the PostgreSQL $PG of $PG_CONFIG"
install_extension "$PG_CONFIG"
grep -E 'Copying|Writing' "$BUILD/install$PG.log" | sed 's/\x1b\[[0-9;]*m//g'
say "done: CREATE EXTENSION aggregator;"
