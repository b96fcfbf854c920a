#!/usr/bin/env bash
# Packages for PostgreSQL $PG, into .build/dist: a .deb, a tarball of the built files, and the source
# archive for PGXN. Sourced by test.sh as well, which tests what was made.
source "$(dirname "${BASH_SOURCE[0]}")/../tools/setup.sh"
cd "$TREE"
export LC_ALL=C TZ=UTC
umask 022

VERSION=$(sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' Cargo.toml)
ARCH=$(dpkg --print-architecture)
commit_of() { git log -1 --format="$1" 2>/dev/null || true; }
MAINTAINER="${DEBFULLNAME:-aggregator authors} <${DEBEMAIL:-$(commit_of %ae)}>"
DIST=$BUILD/dist
STAGE=$BUILD/stage
PACKAGE=postgresql-$PG-aggregator
mkdir -p "$DIST"

say "building for PostgreSQL $PG"
rm -rf "$STAGE"
"$CARGO_PGRX" pgrx package --no-default-features --features "pg$PG" --pg-config "$PG_CONFIG" --out-dir "$STAGE/built" \
    > "$BUILD/package.log" 2>&1 || { cat "$BUILD/package.log" >&2; fail "the extension does not build"; }

# The time in the packages is that of the sources: the same sources give the same bytes. Set only now,
# because crates that look at it would be built anew after each commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(commit_of %ct)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(stat -c %Y CHANGELOG.md)}

# What cargo-pgrx laid out for this very PostgreSQL, which may be a private copy, as a plain tree.
FILES=$STAGE/files
mkdir -p "$FILES/lib" "$FILES/share/extension"
install -m 644 "$STAGE/built$("$PG_CONFIG" --pkglibdir)/aggregator.so" "$FILES/lib/"
install -m 644 "$STAGE/built$("$PG_CONFIG" --sharedir)"/extension/aggregator* "$FILES/share/extension/"
strip --strip-unneeded "$FILES/lib/aggregator.so"

source packaging/deb.sh
source packaging/archives.sh

say "in ${DIST#"$TREE/"}"
(cd "$DIST" && stat -c '%8s  %n' "$PACKAGE"_* aggregator-"$VERSION"*)
printf '%8s  aggregator.so, stripped (%s with symbols)\n' "$(stat -c %s "$FILES/lib/aggregator.so")" \
    "$(stat -c %s "$STAGE/built$("$PG_CONFIG" --pkglibdir)/aggregator.so")"
