#!/usr/bin/env bash
# Writes the pages of docs/reference. The tests that write them are those that compare them: documented.
source "$(dirname "$0")/setup.sh"
cd "$TREE"
export AGGREGATOR_WRITE_GOLDENS=1 AGGREGATOR_CLIENTS=skip
cargo test --quiet --package aggregator --package aggregator-tests --no-default-features --features "pg$PG" --lib documented::
tools/test.sh documented::
