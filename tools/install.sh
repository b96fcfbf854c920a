#!/usr/bin/env bash
# Installs the extension into an existing server: install.sh /path/to/pg_config
target=${1:-}
[ -n "$target" ] || target=$(command -v pg_config) || { echo "usage: make install PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
PG=$("$target" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
export PG
target=$(readlink -f "$target")
source "$(dirname "$0")/setup.sh"
cd "$TREE"
say "installing into the PostgreSQL $PG of $target"
install_extension "$target"
grep -E 'Copying|Writing' "$BUILD/install.log" | sed 's/\x1b\[[0-9;]*m//g'
say "done: CREATE EXTENSION aggregator;"
