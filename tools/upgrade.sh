#!/usr/bin/env bash
# Writes the upgrade script to this version from the last one that is kept in tests/upgrades.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

install_extension "$PG_CONFIG"
upgrade_script > "$BUILD/upgrade.sql" || fail "the upgrade script cannot be written"
mv "$BUILD/upgrade.sql" "$(upgrade_path)"
say "written: $(upgrade_path)"
