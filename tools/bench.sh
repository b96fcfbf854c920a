#!/usr/bin/env bash
# Figures, next to what they are a ratio to in the same run. Arguments: the benches to run, by name.
source "$(dirname "$0")/setup.sh"
cd "$TREE"
[ $# = 0 ] && set -- overhead cache front console many embed stream jobs cancel sync usage gateways
# "citus" runs where Citus is installed, when it is named.
[[ " $* " != *" citus "* ]] || CITUS=1 source "$TREE/tools/citus.sh"
say "building and installing the extension for PostgreSQL $PG"
install_extension "$PG_CONFIG"
# One bench compares with a function in PL/Python: Debian's, put into the private copy.
if [ "$PG" = "$DEBIAN_PG" ] && [ ! -f "$PG_BIN/../lib/plpython3.so" ]; then
    plpython=$BUILD/plpython
    mkdir -p "$plpython"
    (cd "$plpython" && apt-get download -qq "postgresql-plpython3-$PG" && dpkg -x ./*.deb .) > "$BUILD/plpython.log" 2>&1 \
        && cp "$plpython/usr/lib/postgresql/$PG/lib/plpython3.so" "$PG_BIN/../lib/" \
        && cp "$plpython/usr/share/postgresql/$PG/extension"/plpython3u* "$private/share/postgresql/$PG/extension/" \
        || say "NO PL/PYTHON HERE: nothing by hand to compare with"
fi
source "$TREE/tools/clusters.sh"
say "$(nproc) cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)"
cargo bench --quiet --package aggregator-tests "${@/#/--bench=}"
