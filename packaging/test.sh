#!/usr/bin/env bash
# Makes the packages, installs the .deb beside a PostgreSQL of its own, uses the extension, removes it,
# and compares what is left. As root or not; the system's own packages stay as they are.
source "$(dirname "$0")/build.sh"

deb=$DIST/${PACKAGE}_$VERSION-1_$ARCH.deb
prefix=$BED/package
cluster=$BED/package-cluster
export PATH=$PATH:/usr/sbin:/sbin
clean_up() {
    [ -f "$cluster/data/postmaster.pid" ] && as_server "$bin/pg_ctl" -D "$cluster/data" -m immediate stop > /dev/null
    rm -rf "$prefix" "$cluster"
}
bin=$prefix/usr/lib/postgresql/$PG/bin
trap clean_up EXIT
clean_up

# A root of its own, with the directories of Debian's PostgreSQL and a list of what is installed.
mkdir -p "$prefix"/var/lib/dpkg/{info,updates} "$prefix/usr/lib/postgresql/$PG" "$prefix/usr/share/postgresql"
cp -a "$("$PG_CONFIG" --bindir)" "$prefix/usr/lib/postgresql/$PG/bin"
cp -a "$("$PG_CONFIG" --pkglibdir)" "$prefix/usr/lib/postgresql/$PG/lib"
cp -a "$("$PG_CONFIG" --sharedir)" "$prefix/usr/share/postgresql/$PG"
rm -f "$prefix/usr/lib/postgresql/$PG/lib/aggregator.so" "$prefix/usr/share/postgresql/$PG/extension/aggregator"*
# Another PostgreSQL than Debian's looks elsewhere, relative to its programs.
for where in --pkglibdir:lib/postgresql/"$PG"/lib --sharedir:share/postgresql/"$PG"; do
    looks=$("$bin/pg_config" "${where%%:*}")
    [ -e "$looks" ] || { mkdir -p "$(dirname "$looks")" && ln -s "$prefix/usr/${where#*:}" "$looks"; }
done
installed() {
    printf 'Package: %s\nStatus: install ok installed\nArchitecture: %s\nVersion: %s\nMaintainer: x <x@example.org>\nDescription: x\n\n' \
        "$1" "$ARCH" "$2" >> "$prefix/var/lib/dpkg/status"
}
installed libc6 "$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"
installed libgcc-s1 12
installed ca-certificates 1
dpkg_here() { dpkg --root="$prefix" --force-not-root --force-bad-path --log=/dev/null "$@"; }
files() { (cd "$prefix" && find . -path ./var/lib/dpkg -prune -o -printf '%y %p %l\n' | sort); }

say "without PostgreSQL $PG it is not installed"
if dpkg_here --install "$deb" > "$BUILD/dpkg.log" 2>&1; then fail "it was installed without what it depends on"; fi
grep -q "depends on postgresql-$PG" "$BUILD/dpkg.log" || { cat "$BUILD/dpkg.log" >&2; fail "another reason"; }
dpkg_here --purge "$PACKAGE" > /dev/null 2>&1

say "installing $(basename "$deb")"
installed "postgresql-$PG" "$PG"
before=$(files)
dpkg_here --install "$deb" > "$BUILD/dpkg.log" 2>&1 || { cat "$BUILD/dpkg.log" >&2; fail "it cannot be installed"; }
(cd "$prefix" && md5sum --quiet --check var/lib/dpkg/info/"$PACKAGE".md5sums)

install -d -o "$SERVER_USER" "$cluster"
as_server "$bin/initdb" -D "$cluster/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8 --no-sync > "$BUILD/package-server.log"
as_server "$bin/pg_ctl" -D "$cluster/data" -l "$cluster/log" -o "-c listen_addresses= -c unix_socket_directories=$cluster" -w start >> "$BUILD/package-server.log"
said=$(as_server "$bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -h "$cluster" -U postgres -d postgres <<'SQL'
CREATE EXTENSION aggregator;
SELECT version || ' ' || (SELECT count(*) FROM api_providers) FROM aggregator_status();
SQL
) || { cat "$cluster/log" >&2; fail "the extension does not work"; }
[ "$said" = "$VERSION 10" ] || fail "the extension says: $said"
as_server "$bin/pg_ctl" -D "$cluster/data" -m fast -w stop > /dev/null

say "removing it"
dpkg_here --remove "$PACKAGE" > "$BUILD/dpkg.log" 2>&1 || { cat "$BUILD/dpkg.log" >&2; fail "it cannot be removed"; }
diff <(echo "$before") <(files) >&2 || fail "something is left"

if command -v lintian > /dev/null; then
    # There is no bug in Debian's list that asks for this package.
    lintian --fail-on error,warning --allow-root --suppress-tags initial-upload-closes-no-bugs "$deb"
else
    say "NO LINTIAN HERE: the package is NOT checked for Debian's policy (apt-get install lintian)"
fi
say "the package installs, works, and goes without a trace"
