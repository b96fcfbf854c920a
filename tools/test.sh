#!/usr/bin/env bash
# Every test: pure ones, those inside a backend, and those from outside against real clusters.
# Arguments are passed on as a filter of the last kind.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"
source "$TREE/tools/clusters.sh"

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
