#!/usr/bin/env bash
# Compiles the extension with the oldest Rust that Cargo.toml promises. The tests may ask for a newer one.
source "$(dirname "$0")/setup.sh"
cd "$TREE"
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! command -v rustup > /dev/null || ! timeout 300 rustup toolchain install "$version" --profile minimal > "$BUILD/msrv.log" 2>&1; then
    say "NO RUST $version HERE: that it suffices is NOT checked (it takes rustup)"
    exit
fi
say "compiling with Rust $version"
RUSTUP_TOOLCHAIN=$version CARGO_TARGET_DIR=$BUILD/msrv cargo check --quiet --locked --package aggregator --no-default-features \
    --features "pg$PG"
