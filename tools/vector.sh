#!/usr/bin/env bash
# pgvector, for the README's statements about it and a test. Sourced after setup.sh: put into the private copy of
# PostgreSQL where a Debian package of it is to be had. Exports AGGREGATOR_WITH_VECTOR: 1 or 0.
# shellcheck disable=SC2154

bring_vector() {
    local vector=$BUILD/vector library=$PG_BIN/../lib share=$private/share/postgresql/$PG/extension
    [ -f "$share/vector.control" ] && return
    [ "$PG" = "$DEBIAN_PG" ] || return
    rm -rf "$vector"
    mkdir -p "$vector"
    (cd "$vector" && apt-get download -qq "postgresql-$PG-pgvector" && dpkg -x ./*.deb .) > "$BUILD/vector.log" 2>&1 \
        && cp "$vector/usr/lib/postgresql/$PG/lib/vector.so" "$library/" \
        && cp "$vector/usr/share/postgresql/$PG/extension"/vector* "$share/"
}

# HNSW came with its version 0.5.0.
has_hnsw() {
    local version
    version=$(sed -n "s/^default_version = '\(.*\)'/\1/p" "$private/share/postgresql/$PG/extension/vector.control")
    [ "$(printf '%s\n' 0.5.0 "$version" | sort -V | head -n 1)" = 0.5.0 ]
}

if bring_vector && has_hnsw; then AGGREGATOR_WITH_VECTOR=1; else AGGREGATOR_WITH_VECTOR=0; fi
export AGGREGATOR_WITH_VECTOR
