#!/usr/bin/env bash
# What is to be linted beside the Rust: shell scripts, and what the extension is made of.
source "$(dirname "$0")/setup.sh"
cd "$TREE"

if ! command -v shellcheck > /dev/null; then
    PACKAGES=shellcheck install_packages > "$BUILD/shellcheck.log" 2>&1 || true
fi
if command -v shellcheck > /dev/null; then
    say "shellcheck"
    find .ci/run tools packaging -name '*.sh' -print0 -o -path .ci/run -print0 | xargs -0 shellcheck --severity=warning
else
    say "NO SHELLCHECK HERE: shell scripts are NOT checked; see .build/shellcheck.log"
fi

say "licences and sources of crates"
cargo metadata --quiet --format-version 1 --locked --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" \
    | python3 tools/crates.py deny.toml
if command -v cargo-deny > /dev/null; then
    say "cargo deny"
    cargo deny --locked --log-level error check licenses bans sources
    # The list of known faults comes from the network.
    cargo deny --locked --log-level error check advisories
else
    say "NO cargo-deny HERE: known faults of crates are NOT looked for (cargo install cargo-deny --locked)"
fi
