#!/usr/bin/env bash
# Keeps the install script of a version, from which the tests upgrade: release.sh [REF]
# Of this tree as it is; with REF, of that commit.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

tree=$TREE
if [ -n "${1:-}" ]; then
    tree=$BUILD/release
    git worktree remove --force "$tree" 2>/dev/null || true
    git worktree add --quiet --detach "$tree" "$1"
    trap 'git -C "$TREE" worktree remove --force "$tree"' EXIT
fi
version=$(sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' "$tree/Cargo.toml")
kept=$TREE/tests/upgrades/aggregator--$version.sql

say "generating the install script of $version"
(
    cd "$tree"
    CARGO_TARGET_DIR=$TREE/target "$CARGO_PGRX" pgrx schema --release --no-default-features --features "pg$PG" \
        --pg-config "$PG_CONFIG" --out "$BUILD/release.sql"
) > "$BUILD/release.log" 2>&1 || { cat "$BUILD/release.log" >&2; fail "the script cannot be generated"; }

# What left this house is never changed: somebody has it.
if [ -f "$kept" ] && ! cmp -s "$BUILD/release.sql" "$kept"; then
    fail "$version is kept already, and differs. Raise the version in Cargo.toml; or, if it never left, delete $kept first"
fi
mkdir -p "$(dirname "$kept")"
mv "$BUILD/release.sql" "$kept"
say "kept: ${kept#"$TREE/"}"
